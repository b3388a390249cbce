/* Dense linear algebra of a few columns; see linalg.h. */
#include "linalg.h"

#include <math.h>
#include <string.h>

/* Inlined with `columns` constant, so that the inner loops unroll: nearly all the time of a fit is spent
 * here. */
static inline __attribute__((always_inline)) void fold(double *r, int columns, double *block, size_t rows)
{
    for (int j = 0; j < columns; j++) {
        double *row = r + (size_t) j * columns;
        double dot[TLAW_LINALG_MAX + 1] = {0}, factor[TLAW_LINALG_MAX + 1];
        for (size_t i = 0; i < rows; i++) {
            const double *b = block + i * columns;
            double head = b[j];
#pragma GCC unroll 6
            for (int k = 0; k < columns; k++) /* those before j are not used */
                dot[k] += head * b[k];
        }
        if (dot[j] == 0)
            continue;
        double norm = sqrt(row[j] * row[j] + dot[j]);
        double head = row[j] >= 0 ? row[j] + norm : row[j] - norm;
        double tau = 2 / (head * head + dot[j]);
        for (int k = 0; k < columns; k++) {
            factor[k] = k < j ? 0 : tau * (head * row[k] + dot[k]);
            row[k] -= k < j ? 0 : factor[k] * head;
        }
        for (size_t i = 0; i < rows; i++) {
            double *b = block + i * columns, pivot = b[j];
#pragma GCC unroll 6
            for (int k = 0; k < columns; k++)
                b[k] -= factor[k] * pivot;
        }
    }
}

void tlaw_qr_fold(double *r, int columns, double *block, size_t rows)
{
    switch (columns) {
    case 3:
        fold(r, 3, block, rows);
        break;
    case 4:
        fold(r, 4, block, rows);
        break;
    case 5:
        fold(r, 5, block, rows);
        break;
    case 6:
        fold(r, 6, block, rows);
        break;
    default:
        fold(r, columns, block, rows);
    }
}

bool tlaw_solve_upper(const double *r, int stride, int n, const double *b, double *x)
{
    for (int i = n - 1; i >= 0; i--) {
        double sum = b[i];
        for (int k = i + 1; k < n; k++)
            sum -= r[(size_t) i * stride + k] * x[k];
        x[i] = sum / r[(size_t) i * stride + i];
        if (!isfinite(x[i]))
            return false;
    }
    return true;
}

bool tlaw_solve_upper_transposed(const double *r, int stride, int n, const double *b, double *x)
{
    for (int i = 0; i < n; i++) {
        double sum = b[i];
        for (int k = 0; k < i; k++)
            sum -= r[(size_t) k * stride + i] * x[k];
        x[i] = sum / r[(size_t) i * stride + i];
        if (!isfinite(x[i]))
            return false;
    }
    return true;
}

bool tlaw_inverse_of_gram(const double *r, int stride, int n, double *inverse)
{
    for (int j = 0; j < n; j++) {
        double unit[TLAW_LINALG_MAX] = {0}, half[TLAW_LINALG_MAX], column[TLAW_LINALG_MAX];
        unit[j] = 1;
        if (!tlaw_solve_upper_transposed(r, stride, n, unit, half) ||
            !tlaw_solve_upper(r, stride, n, half, column))
            return false;
        for (int i = 0; i < n; i++)
            inverse[(size_t) i * n + j] = column[i];
    }
    for (int i = 0; i < n; i++)
        for (int j = 0; j < i; j++)
            inverse[i * n + j] = inverse[j * n + i] = 0.5 * (inverse[i * n + j] + inverse[j * n + i]);
    return true;
}

/* Rotates rows and columns p, q of a so that a[p][q] vanishes. */
static void jacobi_rotate(double *a, double *vectors, int n, int p, int q)
{
    double theta = (a[q * n + q] - a[p * n + p]) / (2 * a[p * n + q]);
    double t = (theta >= 0 ? 1 : -1) / (fabs(theta) + sqrt(theta * theta + 1));
    double c = 1 / sqrt(t * t + 1), s = t * c;
    for (int k = 0; k < n; k++) {
        double x = a[k * n + p], y = a[k * n + q];
        a[k * n + p] = c * x - s * y;
        a[k * n + q] = s * x + c * y;
    }
    for (int k = 0; k < n; k++) {
        double x = a[p * n + k], y = a[q * n + k];
        a[p * n + k] = c * x - s * y;
        a[q * n + k] = s * x + c * y;
    }
    for (int k = 0; vectors && k < n; k++) {
        double x = vectors[k * n + p], y = vectors[k * n + q];
        vectors[k * n + p] = c * x - s * y;
        vectors[k * n + q] = s * x + c * y;
    }
}

void tlaw_symmetric_eigen(const double *matrix, int n, double *values, double *vectors)
{
    double a[TLAW_LINALG_MAX * TLAW_LINALG_MAX];
    memcpy(a, matrix, sizeof(double) * n * n);
    for (int i = 0; vectors && i < n * n; i++)
        vectors[i] = i % (n + 1) == 0;
    for (int sweep = 0; sweep < 60; sweep++) {
        double off = 0, diagonal = 0;
        for (int p = 0; p < n; p++)
            for (int q = 0; q < n; q++)
                *(p == q ? &diagonal : &off) += a[p * n + q] * a[p * n + q];
        if (!(off > 1e-32 * diagonal))
            break;
        for (int p = 0; p < n; p++)
            for (int q = p + 1; q < n; q++)
                if (a[p * n + q] != 0)
                    jacobi_rotate(a, vectors, n, p, q);
    }
    for (int i = 0; i < n; i++)
        values[i] = a[i * n + i];
    for (int i = 0; i < n; i++) /* ascending, by selection */
        for (int j = i + 1; j < n; j++)
            if (values[j] < values[i]) {
                double swap = values[i];
                values[i] = values[j];
                values[j] = swap;
                for (int k = 0; vectors && k < n; k++) {
                    swap = vectors[k * n + i];
                    vectors[k * n + i] = vectors[k * n + j];
                    vectors[k * n + j] = swap;
                }
            }
}

double tlaw_quadratic_form(const double *a, int n, const double *v)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++)
            sum += v[i] * a[i * n + j] * v[j];
    return sum;
}
