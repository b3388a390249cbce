/*
 * Weights as a safetensors file: u64 length of a JSON header | header, padded with spaces to 8 bytes |
 * float32 data.
 *
 * The file always has all of GPT-2's parameters (a bias that the specification leaves out is zero), because
 * Hugging Face's GPT-2 always has them.  Import accepts exactly the bytes that export would put in front of
 * the data.
 */
#include "gpt2.h"
#include "trainer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A file's parameters: the specification's with every bias. */
static struct parameter *file_parameters(const struct model *model, int *count, size_t *elements)
{
    struct tlaw_spec full = model->spec;
    struct parameter *list;

    full.bias = 1;
    list = model_parameters(&full, count);
    if (list)
        *elements = list[*count - 1].offset + list[*count - 1].size;
    return list;
}

/* The length, the header and its padding; malloc'd. */
static char *file_header(const struct parameter *list, int count, size_t *size)
{
    size_t capacity = 128 + (size_t) count * 192, used = 8;
    char *header = malloc(capacity);

    if (!header)
        return NULL;
    used += snprintf(header + used, capacity - used, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int i = 0; i < count; i++) {
        const struct parameter *p = &list[i];
        char shape[32];

        snprintf(shape, sizeof shape, p->dims == 2 ? "%d,%d" : "%d", p->shape[0], p->shape[1]);
        used += snprintf(header + used, capacity - used,
                         ",\"%s\":{\"dtype\":\"F32\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}", p->name,
                         shape, p->offset * sizeof(float), (p->offset + p->size) * sizeof(float));
    }
    header[used++] = '}';
    while (used % 8)
        header[used++] = ' ';
    for (int byte = 0; byte < 8; byte++)
        header[byte] = (char) ((used - 8) >> (8 * byte));
    *size = used;
    return header;
}

/* The model's parameter of that name at or after *next, which moves past it; NULL: the model has none. */
static const struct parameter *own_parameter(const struct model *model, const char *name, int *next)
{
    if (*next == model->n_parameters || strcmp(model->parameters[*next].name, name) != 0)
        return NULL;
    return &model->parameters[(*next)++];
}

void *model_export(struct model *model, size_t *size)
{
    int count, next = 0;
    size_t header_size, elements;
    struct parameter *list = file_parameters(model, &count, &elements);
    char *header = list ? file_header(list, count, &header_size) : NULL;
    real *weights = malloc(model->size * sizeof(real));
    float *file = header ? malloc(header_size + elements * sizeof(float)) : NULL;

    if (file && weights) {
        float *data = file + header_size / sizeof(float);

        memcpy(file, header, header_size);
        model_get(model, weights);
        for (int i = 0; i < count; i++) {
            const struct parameter *own = own_parameter(model, list[i].name, &next);

            for (size_t j = 0; j < list[i].size; j++)
                data[list[i].offset + j] = own ? (float) weights[own->offset + j] : 0;
        }
        *size = header_size + elements * sizeof(float);
    } else {
        free(file);
        file = NULL;
    }
    free(weights);
    free(header);
    free(list);
    return file;
}

/* Copies the data of a file whose header is right; NULL or what is wrong. */
static const char *import_data(struct model *model, const struct parameter *list, int count,
                               const float *data)
{
    real *weights = malloc(model->size * sizeof(real));
    const char *fault = weights ? NULL : "memory is short";
    int next = 0;

    for (int i = 0; i < count && !fault; i++) {
        const struct parameter *own = own_parameter(model, list[i].name, &next);

        for (size_t j = 0; j < list[i].size && !fault; j++)
            if (own)
                weights[own->offset + j] = data[list[i].offset + j];
            else if (data[list[i].offset + j] != 0)
                fault = "it has a bias where the specification has none";
    }
    if (!fault)
        model_set(model, weights);
    free(weights);
    return fault;
}

int model_import(struct model *model, const void *bytes, size_t size, char *message, size_t message_size)
{
    int count;
    size_t header_size, elements;
    struct parameter *list = file_parameters(model, &count, &elements);
    char *header = list ? file_header(list, count, &header_size) : NULL;
    const float *file = bytes;
    const char *fault;

    if (!header)
        fault = "memory is short";
    else if (size < header_size || memcmp(file, header, header_size) != 0)
        fault = "its header is not that of this model";
    else if (size != header_size + elements * sizeof(float))
        fault = "it does not have the size that its header says";
    else
        fault = import_data(model, list, count, file + header_size / sizeof(float));
    if (fault)
        snprintf(message, message_size, "a model file of %zu bytes cannot be used: %s", size, fault);
    free(header);
    free(list);
    return fault ? -1 : 0;
}
