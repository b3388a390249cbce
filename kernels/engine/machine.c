/*
 * What a process may use of its machine: in a container that is less than the machine has.
 *
 * A limit of a control group holds for the groups in it, so that a process has the least of its own group's
 * and all of their parents'.  Version 2 of control groups is one tree of folders, version 1 a tree for each
 * controller; a container may see its own group as the root.  A folder or file that is not there says
 * nothing.
 */
#include "machine.h"

#include <limits.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define ROOT "/sys/fs/cgroup"

/* The numbers that a file in a folder begins with; how many, at most two. */
static int read_numbers(const char *folder, const char *file, double *first, double *second)
{
    char path[PATH_MAX + 32];
    FILE *stream;
    int count;

    snprintf(path, sizeof path, "%s/%s", folder, file);
    stream = fopen(path, "r");
    if (!stream)
        return 0;
    count = fscanf(stream, "%lf %lf", first, second);
    fclose(stream);
    return count;
}

/* Processors' worth of time of the group whose folder this is, in either version; none: infinite. */
static double cpu_limit(const char *folder)
{
    double quota = 0, period = 0, none;

    if (read_numbers(folder, "cpu.max", &quota, &period) < 2 &&
        (read_numbers(folder, "cpu.cfs_quota_us", &quota, &none) < 1 ||
         read_numbers(folder, "cpu.cfs_period_us", &period, &none) < 1))
        return INFINITY;
    return quota > 0 && period > 0 ? quota / period : INFINITY;
}

/* Likewise bytes of memory. */
static double memory_limit(const char *folder)
{
    double limit, none;

    if (read_numbers(folder, "memory.max", &limit, &none) < 1 &&
        read_numbers(folder, "memory.limit_in_bytes", &limit, &none) < 1)
        return INFINITY;
    return limit;
}

/* The least limit of a group and its parents in the tree that begins at `root`. */
static double least_limit(const char *root, const char *group, double (*limit)(const char *folder))
{
    char folder[PATH_MAX];
    double least = INFINITY;
    char *slash = folder;

    snprintf(folder, sizeof folder, "%s%s", root, group);
    while (slash) {
        least = fmin(least, limit(folder));
        slash = strrchr(folder + strlen(root), '/');
        if (slash)
            *slash = 0;
    }
    return least;
}

/* Whether a word is one of a list with commas. */
static int has_word(const char *list, const char *word)
{
    size_t size = strlen(word);

    for (; list; list = strchr(list, ',') ? strchr(list, ',') + 1 : NULL) {
        if (strncmp(list, word, size) == 0 && (list[size] == 0 || list[size] == ','))
            return 1;
    }
    return 0;
}

/* The least limit of this process's groups, which the lines "number:controllers:path" name; version 2 names
 * no controllers. */
static double group_limit(const char *controller, double (*limit)(const char *folder))
{
    FILE *file = fopen("/proc/self/cgroup", "r");
    char line[PATH_MAX], root[64];
    double least = INFINITY;

    while (file && fgets(line, sizeof line, file)) {
        char *controllers = strchr(line, ':'), *path = controllers ? strchr(controllers + 1, ':') : NULL;

        if (!path)
            continue;
        controllers++;
        *path++ = 0;
        path[strcspn(path, "\n")] = 0;
        snprintf(root, sizeof root, ROOT "%s%s", controllers[0] ? "/" : "", controllers[0] ? controller : "");
        if (!controllers[0] || has_word(controllers, controller))
            least = fmin(least, least_limit(root, path, limit));
    }
    if (file)
        fclose(file);
    return least;
}

int tlaw_usable_cpus(void)
{
    cpu_set_t set;
    int cpus =
        sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : (int) sysconf(_SC_NPROCESSORS_ONLN);
    double share = ceil(group_limit("cpu", cpu_limit));

    return share < cpus ? (int) share : cpus;
}

double tlaw_usable_memory(void)
{
    double memory = (double) sysconf(_SC_PHYS_PAGES) * (double) sysconf(_SC_PAGESIZE);

    return fmin(memory, group_limit("memory", memory_limit));
}
