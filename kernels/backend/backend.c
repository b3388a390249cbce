/*
 * The registry: which backend serves a specification's device, instruction set and precision.
 */
#include "reference.h"

#include <stdio.h>
#include <string.h>

const struct backend *backend_find(const char *device, const char *isa, const char *precision, char *message,
                                   size_t message_size)
{
    if (strcmp(device, "cpu") != 0) {
        snprintf(message, message_size, "device \"%s\" is not available; this build has \"cpu\"", device);
        return NULL;
    }
    if (strcmp(isa, "reference") == 0 && strcmp(precision, "float32") == 0)
        return &reference_backend;
    snprintf(
        message, message_size,
        "instruction set \"%s\" with precision \"%s\" is not available on this machine; \"reference\" with "
        "\"float32\" is",
        isa, precision);
    return NULL;
}

const char *backend_cpu_isa(void)
{
    return "reference";
}
