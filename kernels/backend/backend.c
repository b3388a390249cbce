/*
 * The registry: which backend serves a specification's device, instruction set and precision.
 */
#include "cpu/cpu.h"
#include "cuda/cuda_find.h"
#include "reference.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void say_and_exit(const char *message)
{
    fprintf(stderr, "%s\n", message);
    exit(EXIT_FAILURE);
}

void (*backend_no_memory)(const char *message) = say_and_exit;

int backend_list(const struct backend *list[BACKEND_MOST])
{
    static const char *const isas[] = {"portable", "neon", "avx2", "avx512", "amx"};
    static const char *const precisions[] = {"float32", "bf16"};
    int count = 0;

    list[count++] = &reference_backend;
    for (int i = 0; i < 10; i++)
        if ((list[count] = cpu_backend(isas[i / 2], precisions[i % 2])))
            count++;
    return count;
}

const struct backend *backend_find(const char *device, const char *isa, const char *precision, char *message,
                                   size_t message_size)
{
    const struct backend *list[BACKEND_MOST];
    char accepted[512] = "";
    int count = backend_list(list);

    if (strncmp(device, "cuda:", 5) == 0)
        return cuda_find(device, isa, precision, message, message_size);
    if (strcmp(device, "cpu") != 0) {
        snprintf(message, message_size, "device \"%.60s\" is not known; \"cpu\" and \"cuda:N\" are", device);
        return NULL;
    }
    if (!isa[0])
        isa = backend_cpu_isa(precision);
    for (int i = 0; i < count; i++) {
        size_t used = strlen(accepted);

        if (strcmp(list[i]->name, isa) == 0 && strcmp(list[i]->precision, precision) == 0)
            return list[i];
        snprintf(accepted + used, sizeof accepted - used, "%s%s with %s", i ? ", " : "", list[i]->name,
                 list[i]->precision);
    }
    snprintf(message, message_size,
             "instruction set \"%.60s\" with precision \"%.60s\" is not available on this machine; it has %s",
             isa, precision, accepted);
    return NULL;
}

const char *backend_cpu_isa(const char *precision)
{
    return cpu_best_isa(precision);
}
