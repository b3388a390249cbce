/*
 * Exact neighbours of random points, timed, on a GPU or on the CPU: seconds of each turn, then a sum over all
 * neighbours that only the same ones have.  Half of the coordinates' variance is in 20 directions.
 *
 * usage: search N WIDTH K cuda:0|THREADS TURNS
 */
#include "../../kernels/backend/cuda/cuda_find.h"
#include "../../kernels/backend/knn.h"
#include "../../kernels/stats/dimension_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { RANK = 20 };

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double) t.tv_sec + 1e-9 * (double) t.tv_nsec;
}

static float *make_points(int64_t n, int width)
{
    float *data = malloc((size_t) n * (size_t) width * sizeof *data);
    float *mix = malloc((size_t) width * RANK * sizeof *mix);
    uint64_t state = 1;

    for (int i = 0; i < width * RANK; i++)
        mix[i] = (float) (tlaw_random_normal(&state) / sqrt(RANK));
    for (int64_t i = 0; i < n; i++) {
        float latent[RANK];

        for (int r = 0; r < RANK; r++)
            latent[r] = (float) tlaw_random_normal(&state);
        for (int c = 0; c < width; c++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            data[i * width + c] = (float) (int32_t) (state >> 32) * 8e-10f; /* uniform, of variance 1 */
            for (int r = 0; r < RANK; r++)
                data[i * width + c] += latent[r] * mix[c * RANK + r];
        }
    }
    free(mix);
    return data;
}

static uint64_t sum_of(const struct tlaw_neighbours *lists)
{
    uint64_t sum = 14695981039346656037u; /* Fowler, Noll and Vo */

    for (int64_t i = 0; i < lists->n * lists->k; i++) {
        uint64_t bits;

        memcpy(&bits, lists->distance + i, sizeof bits);
        sum = (sum ^ bits ^ (uint64_t) lists->index[i] << 20) * 1099511628211u;
    }
    return sum;
}

int main(int argc, char **argv)
{
    char message[TLAW_DIMENSION_MESSAGE] = "";

    if (argc != 6) {
        fprintf(stderr, "usage: search N WIDTH K cuda:0|THREADS TURNS\n");
        return 2;
    }
    struct tlaw_points points = {.n = atoll(argv[1]), .width = atoi(argv[2]), .element_size = 4};
    struct tlaw_neighbours lists = {.n = points.n, .k = atoi(argv[3])};
    size_t entries = (size_t) lists.n * (size_t) lists.k;
    bool gpu = strncmp(argv[4], "cuda", 4) == 0;
    const struct backend *backend = gpu ? backend_find(argv[4], "", "bf16", message, sizeof message) : NULL;
    struct cuda_knn_request there = {.device = backend ? backend->open(1, message, sizeof message) : NULL};
    struct knn_request here = {.pool = gpu ? NULL : pool_create(atoi(argv[4]))};

    if (!there.device && !here.pool) {
        fprintf(stderr, "search: %s\n", message);
        return 1;
    }
    points.data = make_points(points.n, points.width);
    lists.distance = malloc(entries * sizeof *lists.distance);
    lists.index = malloc(entries * sizeof *lists.index);
    for (int turn = 0; turn < atoi(argv[5]); turn++) {
        double start = now();
        int status = gpu ? cuda_knn(&points, TLAW_METRIC_EUCLIDEAN, NULL, &lists, (struct tlaw_poll){0},
                                    &there, message)
                         : knn_exact(&points, TLAW_METRIC_EUCLIDEAN, NULL, &lists, (struct tlaw_poll){0},
                                     &here, message);

        if (status) {
            fprintf(stderr, "search: %s\n", message);
            return 1;
        }
        printf("%.6f\n", now() - start);
        fflush(stdout);
    }
    printf("%016llx\n", (unsigned long long) sum_of(&lists));
    return 0;
}
