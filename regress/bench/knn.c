/*
 * Neighbours of the float32 points in a file, timed: one search a line of standard input, seconds, distances
 * computed a point and the peak of memory in MB to standard output.
 *
 * usage: knn FILE n width k threads OUT     writes indices [n][k] (int32) to OUT after every search
 */
#include "../../kernels/backend/knn.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double) t.tv_sec + 1e-9 * (double) t.tv_nsec;
}

int main(int argc, char **argv)
{
    char line[100], message[TLAW_DIMENSION_MESSAGE];

    if (argc != 7) {
        fprintf(stderr, "usage: knn FILE n width k threads OUT\n");
        return 2;
    }
    struct tlaw_points points = {.n = atoll(argv[2]), .width = atoi(argv[3]), .element_size = 4};
    size_t bytes = (size_t) points.n * (size_t) points.width * 4;
    int k = atoi(argv[4]);
    struct tlaw_neighbours lists = {points.n, k, malloc((size_t) (points.n * k) * 8),
                                    malloc((size_t) (points.n * k) * 4)};
    float *data = malloc(bytes);
    FILE *file = fopen(argv[1], "rb");
    struct pool *pool = pool_create(atoi(argv[5]));

    if (!file || !pool || fread(data, 1, bytes, file) != bytes) {
        fprintf(stderr, "knn: %s cannot be read\n", argv[1]);
        return 1;
    }
    points.data = data;
    while (fgets(line, sizeof line, stdin)) {
        struct knn_request request = {.pool = pool};
        double start = now();

        if (knn_exact(&points, TLAW_METRIC_EUCLIDEAN, NULL, &lists, (struct tlaw_poll){0}, &request,
                      message)) {
            fprintf(stderr, "knn: %s\n", message);
            return 1;
        }
        double seconds = now() - start;
        FILE *out = fopen(argv[6], "wb");
        if (!out || fwrite(lists.index, 4, (size_t) (points.n * k), out) != (size_t) (points.n * k) ||
            fclose(out))
            return 1;
        struct rusage usage;
        getrusage(RUSAGE_SELF, &usage);
        printf("%.6f %.1f %.1f %ld\n", seconds, (double) request.fine_distances / (double) points.n,
               (double) request.exact_distances / (double) points.n, usage.ru_maxrss / 1024);
        fflush(stdout);
    }
    return 0;
}
