/*
 * What a process may use of its machine.  Both wings size themselves by it: compiled into tlaw.so as well.
 */
#ifndef TLAW_MACHINE_H
#define TLAW_MACHINE_H

/* Processors: those of its affinity mask, or fewer where a control group's quota of time is worth fewer; at
 * least 1. */
int tlaw_usable_cpus(void);

/* Bytes of memory: the machine's, or fewer where a control group says so. */
double tlaw_usable_memory(void);

#endif
