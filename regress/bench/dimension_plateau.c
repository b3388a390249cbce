/*
 * The default estimator for dimension_plateau.py.  On standard input again and again "n width\n" and n width
 * float64; for each a line "dimension low high plateau read n extrapolated": read is the plain reading with
 * k/4 neighbours ("mackay"); extrapolated, the default's answer with no regard to the plateau; nan where
 * there is none.
 */
#include "../kernels/points.h"

static double extrapolated(const struct tlaw_dimension *result)
{
    const char *said = strstr(result->message, "extrapolated to none ");

    return result->plateau ? result->dimension
           : said          ? strtod(said + strlen("extrapolated to none "), NULL)
                           : NAN;
}

int main(void)
{
    struct tlaw_points points = {.element_size = 8};

    while (scanf("%ld %d", &points.n, &points.width) == 2 && getchar() == '\n') {
        size_t values = (size_t) points.n * (size_t) points.width;
        double *data = malloc(values * sizeof *data);
        struct tlaw_dimension_options options = {.estimator = TLAW_ESTIMATOR_CALIBRATED};
        struct tlaw_dimension result, near;

        if (!data || fread(data, sizeof *data, values, stdin) != values)
            return 1;
        points.data = data;
        tlaw_dimension_estimate(&points, &options, tlaw_knn_plain, NULL, (struct tlaw_poll){0}, &result);
        options = (struct tlaw_dimension_options){.estimator = TLAW_ESTIMATOR_MACKAY, .k = result.k / 4};
        tlaw_dimension_estimate(&points, &options, tlaw_knn_plain, NULL, (struct tlaw_poll){0}, &near);
        printf("%.17g %.17g %.17g %d %.17g %ld %.17g\n", result.dimension, result.low, result.high,
               result.plateau, near.dimension, (long) result.n, extrapolated(&result));
        fflush(stdout);
        free(data);
    }
    return 0;
}
