/*
 * The fast backends' matrix products against sums in double, at sizes that leave every kind of edge, with
 * every epilogue: bias, GELU with the slope that the CPU keeps, that slope, accumulation, column sums.  The
 * element functions' accuracy is checked through GELU and the softmax of one logit over a wide range.
 */
#include "../../kernels/backend/backend.h"
#include "tap.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct backend *backend;
static struct device *device;
static uint32_t state = 1;

static float uniform(void)
{
    state = state * 1664525u + 1013904223u;
    return (float) (state >> 8) / (1 << 24) - 0.5f;
}

static float *array(size_t n)
{
    float *a = backend->alloc(device, n * sizeof *a);

    for (size_t i = 0; i < n; i++)
        a[i] = uniform();
    return a;
}

static double gelu_double(double x)
{
    return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

static double gelu_slope_double(double x)
{
    double t = tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x));

    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x * x);
}

/* Error of a sum of K products of numbers below 0.5, in units of four standard deviations of a float32 sum.
 */
static double sum_error(double got, double wanted, int K)
{
    return fabs(got - wanted) / (8e-7 * sqrt((double) K) + 2e-7);
}

static bool forward(int rows, int K, int N)
{
    float *x = array((size_t) rows * K), *w = array((size_t) K * N), *bias = array((size_t) N);
    float *y = array((size_t) rows * N), *slope = array((size_t) rows * N), *plain = array((size_t) rows * N);
    double worst = 0;

    backend->linear_forward(device, y, NULL, slope, x, w, bias, rows, K, N);
    backend->linear_forward(device, NULL, plain, NULL, x, w, NULL, rows, K, N);
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < N; j++) {
            double sum = 0;

            for (int k = 0; k < K; k++)
                sum += (double) x[i * K + k] * w[k * N + j];
            worst = fmax(worst, sum_error(plain[i * N + j], sum, K));
            worst = fmax(worst, sum_error(slope[i * N + j], gelu_slope_double(sum + bias[j]), K));
            worst = fmax(worst, sum_error(y[i * N + j], gelu_double(sum + bias[j]), K));
        }
    float *arrays[] = {x, w, bias, y, slope, plain};
    for (int i = 0; i < 6; i++)
        backend->free(device, arrays[i]);
    return worst < 1;
}

static bool backward(int rows, int K, int N)
{
    float *x = array((size_t) rows * K), *w = array((size_t) K * N), *dy = array((size_t) rows * N);
    float *slope = array((size_t) rows * K), *dx = array((size_t) rows * K), *dw = array((size_t) K * N);
    float *dbias = array((size_t) N), *dw0 = malloc((size_t) K * N * sizeof *dw),
          *dbias0 = malloc((size_t) N * 4);
    double worst = 0;

    memcpy(dw0, dw, (size_t) K * N * sizeof *dw);
    memcpy(dbias0, dbias, (size_t) N * sizeof *dbias);
    backend->linear_backward(device, dx, NULL, dw, dbias, NULL, dy, slope, x, w, rows, K, N);
    for (int i = 0; i < rows; i++)
        for (int k = 0; k < K; k++) {
            double sum = 0;

            for (int j = 0; j < N; j++)
                sum += (double) dy[i * N + j] * w[k * N + j];
            worst = fmax(worst, sum_error(dx[i * K + k], sum * slope[i * K + k], N));
        }
    for (int j = 0; j < N; j++) {
        double column = dbias0[j];

        for (int i = 0; i < rows; i++)
            column += dy[i * N + j];
        worst = fmax(worst, sum_error(dbias[j], column, rows));
        for (int k = 0; k < K; k++) {
            double sum = dw0[k * N + j];

            for (int i = 0; i < rows; i++)
                sum += (double) x[i * K + k] * dy[i * N + j];
            worst = fmax(worst, sum_error(dw[k * N + j], sum, rows));
        }
    }
    float *arrays[] = {x, w, dy, slope, dx, dw, dbias};
    for (int i = 0; i < 7; i++)
        backend->free(device, arrays[i]);
    free(dw0);
    free(dbias0);
    return worst < 1;
}

/* GELU and its slope from -30 to 30: relative error (of the exponent, too), absolute where the value
 * vanishes. */
static double gelu_error(void)
{
    enum { N = 60001 };
    float *x = array(N), *y = array(N), *slope = array(N), *one = array(1), *zero = array(N);
    double worst = 0;

    *one = 1;
    memset(zero, 0, N * sizeof *zero);
    for (int i = 0; i < N; i++)
        x[i] = (float) (i - N / 2) / 1000;
    backend->linear_forward(device, y, NULL, slope, one, x, zero, 1, 1, N);
    for (int i = 0; i < N; i++)
        worst = fmax(worst, fabs(y[i] - gelu_double(x[i])) / (fabs(gelu_double(x[i])) + 1e-6));
    for (int i = 0; i < N; i++)
        worst =
            fmax(worst, fabs(slope[i] - gelu_slope_double(x[i])) / (fabs(gelu_slope_double(x[i])) + 0.01));
    float *arrays[] = {x, y, slope, one, zero};
    for (int i = 0; i < 5; i++)
        backend->free(device, arrays[i]);
    return worst;
}

int main(void)
{
    static const int shapes[][3] = {{1, 1, 1},      {3, 5, 7},       {4, 33, 100},  {5, 16, 16},
                                    {13, 17, 31},   {14, 64, 32},    {29, 385, 33}, {64, 48, 96},
                                    {57, 900, 7},   {700, 31, 65},   {41, 30, 290}, {30, 1024, 40},
                                    {600, 20, 290}, {530, 280, 270}, {40, 910, 920}};
    const struct backend *list[BACKEND_MOST];
    int count = backend_list(list);
    char message[256];

    for (int i = 1; i < count; i++) {
        if (list[i]->act_size != sizeof(float))
            continue;
        backend = list[i];
        device = backend->open(2, message, sizeof message);
        if (!ok(device != NULL, "%s opens", backend->name))
            break;
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
            const int *n = shapes[s];

            ok(forward(n[0], n[1], n[2]), "%s: %d x %d times %d x %d", backend->name, n[0], n[1], n[1], n[2]);
            ok(backward(n[0], n[1], n[2]), "%s: its gradients", backend->name);
        }
        double error = gelu_error();

        ok(error < 5e-6, "%s: GELU and its slope to %.1e", backend->name, error);
        backend->close(device);
    }
    return tap_end();
}
