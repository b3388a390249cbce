/*
 * Devices: what this machine has to compute on, and which of it a run takes (device.c).
 */
#ifndef TLAW_DEVICE_H
#define TLAW_DEVICE_H

#include "tlaw.h"
#include "utils/guc.h"

/* Hook of tlaw.cpu_isa: auto or the name of an instruction set, of this machine's or another's. */
extern bool device_check_isa(char **value, void **extra, GucSource source);

/*
 * Settles device, isa and precision of a specification: what is "" comes from tlaw.device, tlaw.cpu_isa and
 * what the device does best; "auto" is a GPU where there is one, else the CPU.  An error names what this
 * machine has where it lacks what was asked for.
 */
extern void device_resolve(struct tlaw_spec *spec);

/* Bytes that a run on that device of this machine may take: of a GPU its memory, else tlaw.max_run_memory. */
extern int64 device_memory(const char *device);

/*
 * For the use of a trained model on the CPU: where tlaw.cpu_isa names an instruction set, that one takes the
 * place of the one that the run was trained with, in its precision if it has that.
 */
extern void device_resolve_use(struct tlaw_spec *spec);

#endif
