/*
 * The simulation behind the calibrated estimator (kernels/stats/dimension_calibration.c): what "mackay" reads
 * on n points uniform in a ball of dimension d, over d, for k = 2 .. 40: a line "d n R_2/d .. R_40/d" each.
 * Takes some minutes.
 *
 * usage: dimension_calibration [largest n]
 */
#include "../../kernels/stats/dimension_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define K 40

/* Adds, for `queries` of n points (coordinates in columns of length n), the mean log ratios of every k. */
static void add_readings(const float *x, int64_t n, int d, int64_t queries, float *distance2,
                         double sum[K + 1])
{
    for (int64_t q = 0; q < queries; q++) {
        float best[K];
        double before = 0;

        memset(distance2, 0, sizeof *distance2 * (size_t) n);
        for (int c = 0; c < d; c++) {
            const float *column = x + c * n;

            for (int64_t i = 0; i < n; i++)
                distance2[i] += (column[i] - column[q]) * (column[i] - column[q]);
        }
        distance2[q] = INFINITY;
        for (int j = 0; j < K; j++)
            best[j] = INFINITY;
        for (int64_t i = 0; i < n; i++) {
            int at = K - 1;

            if (!(distance2[i] < best[K - 1]))
                continue;
            for (; at > 0 && distance2[i] < best[at - 1]; at--)
                best[at] = best[at - 1];
            best[at] = distance2[i];
        }
        for (int k = 2; k <= K; k++) {
            before += 0.5 * log((double) fmaxf(best[k - 2], 1e-30f));
            sum[k] += 0.5 * log((double) fmaxf(best[k - 1], 1e-30f)) - before / (k - 1);
        }
    }
}

static void simulate(int d, int64_t n, uint64_t *state)
{
    int64_t queries = n >= 30000 ? 15000 : n >= 10000 ? 20000 : 60000, done = 0;
    float *x = malloc(sizeof *x * (size_t) (n * d)), *distance2 = malloc(sizeof *distance2 * (size_t) n);
    double point[100], sum[K + 1] = {0};

    while (done < queries) {
        int64_t some = queries - done < n ? queries - done : n;

        for (int64_t i = 0; i < n; i++) {
            tlaw_random_ball(state, d, point);
            for (int c = 0; c < d; c++)
                x[c * n + i] = (float) point[c];
        }
        add_readings(x, n, d, some, distance2, sum);
        done += some;
    }
    printf("%d %lld", d, (long long) n);
    for (int k = 2; k <= K; k++)
        printf(" %.5f", (double) queries / sum[k] / d);
    printf("\n");
    fflush(stdout);
    free(x);
    free(distance2);
}

int main(int argc, char **argv)
{
    static const int dimensions[] = {1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 32, 40, 50, 64, 80, 100};
    static const int64_t sizes[] = {100, 300, 1000, 3000, 10000, 30000, 100000};
    int64_t largest = argc > 1 ? atoll(argv[1]) : 100000;
    uint64_t state = 12345;

    for (int s = 0; s < 7 && sizes[s] <= largest; s++)
        for (int i = 0; i < 18; i++)
            simulate(dimensions[i], sizes[s], &state);
    return 0;
}
