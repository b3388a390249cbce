/*
 * Point sets for tests of the intrinsic dimension and of neighbours: sets of known dimension, noise, and the
 * reference folder's tables.
 */
#ifndef TLAW_POINTS_H
#define TLAW_POINTS_H

#include "../../kernels/stats/dimension_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static inline const char *reference_folder(void)
{
    const char *folder = getenv("TLAW_REFERENCE");

    return folder ? folder : "../shared/reference";
}

/* A table of numbers, comma-separated, perhaps gzipped; n = 0 where the file is missing. */
static inline struct tlaw_points read_points(const char *name)
{
    struct tlaw_points points = {.element_size = 8};
    char path[1000], command[1100], *line = NULL;
    double *data = NULL;
    size_t capacity = 0;
    FILE *file;

    snprintf(path, sizeof path, "%s/%s", reference_folder(), name);
    if (access(path, R_OK))
        return points;
    snprintf(command, sizeof command, "gzip -dcf '%s'", path);
    file = popen(command, "r");
    while (file && getline(&line, &capacity, file) > 0) {
        int width = 0;
        char *at = line, *end;

        for (double value; value = strtod(at, &end), end != at; at = end + (*end == ',')) {
            data = realloc(data, sizeof *data * (size_t) (points.n * points.width + width + 1));
            data[points.n * points.width + width++] = value;
        }
        points.width = width;
        points.n++;
    }
    free(line);
    if (file)
        pclose(file);
    points.data = data;
    return points;
}

enum shape { TORUS, SPHERE, BALL, CUBE, SHAPES };
static const char *const shape_names[SHAPES] = {"torus", "sphere", "ball", "cube"};

/* n points uniform on a set of dimension d, as doubles: the torus is a product of circles in R^2d. */
static inline struct tlaw_points make_shape(enum shape shape, int64_t n, int d, uint64_t *state)
{
    int width = shape == TORUS ? 2 * d : shape == SPHERE ? d + 1 : d;
    double *data = malloc(sizeof *data * (size_t) (n * width));

    for (int64_t i = 0; i < n; i++) {
        double *row = data + i * width, length2 = 0;

        if (shape == BALL)
            tlaw_random_ball(state, d, row);
        for (int c = 0; c < d && shape == CUBE; c++)
            row[c] = random_uniform(state);
        for (int c = 0; c < d && shape == TORUS; c++) {
            double angle = 2 * M_PI * random_uniform(state);
            row[2 * c] = cos(angle);
            row[2 * c + 1] = sin(angle);
        }
        for (int c = 0; c < width && shape == SPHERE; c++) {
            row[c] = tlaw_random_normal(state);
            length2 += row[c] * row[c];
        }
        for (int c = 0; c < width && shape == SPHERE; c++)
            row[c] /= sqrt(length2);
    }
    return (struct tlaw_points){n, width, 8, data, NULL};
}

/* Room for k neighbours of each of n points. */
static inline struct tlaw_neighbours lists_of(int64_t n, int k)
{
    return (struct tlaw_neighbours){n, k, malloc(sizeof(double) * (size_t) (n * k)),
                                    malloc(sizeof(int32_t) * (size_t) (n * k))};
}

static inline void free_lists(struct tlaw_neighbours *lists)
{
    free(lists->distance);
    free(lists->index);
}

/* rank latent normal coordinates mixed into width ones, as floats, with an offset */
static inline struct tlaw_points mixed(int64_t n, int width, int rank, double offset, uint64_t *state)
{
    float *data = malloc(sizeof *data * (size_t) (n * width));
    double *mix = malloc(sizeof *mix * (size_t) (rank * width)), latent[64];

    for (int i = 0; i < rank * width; i++)
        mix[i] = tlaw_random_normal(state);
    for (int64_t i = 0; i < n; i++) {
        for (int r = 0; r < rank; r++)
            latent[r] = tlaw_random_normal(state);
        for (int c = 0; c < width; c++) {
            double sum = offset;

            for (int r = 0; r < rank; r++)
                sum += latent[r] * mix[r * width + c];
            data[i * width + c] = (float) sum;
        }
    }
    free(mix);
    return (struct tlaw_points){n, width, 4, data, NULL};
}

/* Independent normal coordinates, as floats. */
static inline struct tlaw_points noise(int64_t n, int width, uint64_t *state)
{
    float *data = malloc(sizeof *data * (size_t) (n * width));

    for (int64_t i = 0; i < n * width; i++)
        data[i] = (float) tlaw_random_normal(state);
    return (struct tlaw_points){n, width, 4, data, NULL};
}

#endif
