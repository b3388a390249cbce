/*
 * What a process may use: the limits of control groups of both versions, in a folder of files that stands for
 * those of the system.
 */
#include "tap.h"

#include <stdlib.h>
#include <sys/stat.h>

static char root[] = "/tmp/test_machine.XXXXXX";

/* Opens the test's own file in the place of the system's. */
static FILE *open_own(const char *path, const char *mode)
{
    char own[5000];

    snprintf(own, sizeof own, "%s%s", root, path);
    return fopen(own, mode);
}

#define fopen open_own
#include "../../kernels/engine/machine.c"
#undef fopen

/* Writes a file, and the folders that it is in. */
static void put(const char *path, const char *text)
{
    char own[5000];
    FILE *file;

    snprintf(own, sizeof own, "%s%s", root, path);
    for (char *slash = own + strlen(root) + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = 0;
        mkdir(own, 0700);
        *slash = '/';
    }
    file = fopen(own, "w");
    if (!file)
        abort();
    fputs(text, file);
    fclose(file);
}

int main(void)
{
    double all_memory = (double) sysconf(_SC_PHYS_PAGES) * (double) sysconf(_SC_PAGESIZE);
    cpu_set_t set;
    int all_cpus = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : -1;
    char command[100];

    if (!mkdtemp(root))
        abort();
    ok(tlaw_usable_cpus() == all_cpus && tlaw_usable_memory() == all_memory,
       "no control groups: the whole machine");
    put("/proc/self/cgroup", "0::/pod/box\n");
    put("/sys/fs/cgroup/cpu.stat", "usage_usec 1\n");
    ok(tlaw_usable_cpus() == all_cpus && tlaw_usable_memory() == all_memory, "no files of limits: likewise");
    put("/sys/fs/cgroup/pod/box/cpu.max", "max 100000\n");
    put("/sys/fs/cgroup/pod/box/memory.max", "max\n");
    ok(tlaw_usable_cpus() == all_cpus && tlaw_usable_memory() == all_memory, "limits of max: likewise");
    ok(cpu_limit(strcat(strcpy(command, ROOT), "/pod/box")) == INFINITY, "max is no number of processors");
    put("/sys/fs/cgroup/pod/box/cpu.max", "50000 100000\n");
    put("/sys/fs/cgroup/pod/box/memory.max", "300000000\n");
    ok(tlaw_usable_cpus() == 1, "half a processor's time: one");
    ok(tlaw_usable_memory() == 3e8, "memory.max");
    ok(group_limit("cpu", cpu_limit) == 0.5, "cpu.max");
    put("/sys/fs/cgroup/pod/memory.max", "200000000\n");
    put("/sys/fs/cgroup/pod/cpu.max", "25000 100000\n");
    put("/sys/fs/cgroup/other/memory.max", "1000\n");
    ok(tlaw_usable_memory() == 2e8 && group_limit("cpu", cpu_limit) == 0.25, "a parent's limits hold");
    put("/sys/fs/cgroup/memory.max", "100000000\n");
    ok(tlaw_usable_memory() == 1e8, "and the root's, which a container sees in the place of its own");
    put("/proc/self/cgroup",
        "12:memory:/docker/a\n3:cpuset:/\n2:cpu,cpuacct:/docker/a\n1:name=systemd:/\n0::/none\n");
    put("/sys/fs/cgroup/memory/docker/a/memory.limit_in_bytes", "50000000\n");
    put("/sys/fs/cgroup/cpu/docker/a/cpu.cfs_quota_us", "-1\n");
    put("/sys/fs/cgroup/cpu/docker/a/cpu.cfs_period_us", "100000\n");
    ok(tlaw_usable_memory() == 5e7, "version 1: memory");
    ok(tlaw_usable_cpus() == all_cpus, "version 1: no quota");
    put("/sys/fs/cgroup/cpu/docker/a/cpu.cfs_quota_us", "70000\n");
    ok(group_limit("cpu", cpu_limit) == 0.7 && tlaw_usable_cpus() == 1, "version 1: a quota");
    put("/sys/fs/cgroup/memory/docker/a/memory.limit_in_bytes", "9223372036854771712\n");
    put("/sys/fs/cgroup/memory.max", "max\n");
    ok(tlaw_usable_memory() == all_memory, "a limit beyond the machine is none");
    snprintf(command, sizeof command, "rm -r %s", root);
    ok(system(command) == 0, "the files are removed");
    return tap_end();
}
