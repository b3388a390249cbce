/*
 * The number of threads that a run uses of those it may: steps whose times are made up.
 */
#include "../../kernels/engine/tuner.h"
#include "tap.h"

#include <stdint.h>

#define MOST 16

/* A machine: the seconds of a step by threads; every `stall`th step takes ten times as long. */
struct machine {
    double seconds[MOST + 1];
    int stall;
};

/* What a stretch of steps took, and how much of it with each number of threads. */
struct stretch {
    double total, with[MOST + 1];
    int last;
    bool inside;
};

static struct stretch run(struct tuner *t, const struct machine *m, int most, double seconds)
{
    static int using;
    struct stretch s = {.inside = true};

    if (t->most != most)
        using = most;
    for (uint32_t step = 1, random = 1; s.total < seconds; step++) {
        double time = m->seconds[using];

        random = random * 1664525u + 1013904223u;
        time *= 0.9 + 0.2 * (double) (random >> 8) / (1 << 24);
        if (m->stall && step % (uint32_t) m->stall == 0)
            time *= 10;
        s.total += time;
        s.with[using] += time;
        using = tuner_step(t, most, time);
        s.inside = s.inside && using >= 1 && using <= most;
    }
    s.last = t->used;
    return s;
}

int main(void)
{
    const struct machine two_help = {{0, 1.4e-3, 1e-3}, 0}, two_hurt = {{0, 1e-3, 1.2e-3}, 0},
                         stalls = {{0, 1.4e-3, 1e-3}, 23}, slow = {{0, 0.09, 0.11}, 0},
                         even = {{0, 1e-3, 0.99e-3}, 0};
    struct machine four = {{0}, 0};
    struct tuner t = {0};
    struct stretch s;

    s = run(&t, &two_help, 2, 0.6);
    ok(s.last == 2 && s.with[1] < 0.06 * s.total, "a short run: %.1f %% of its time on trials",
       100 * s.with[1] / s.total);
    s = run(&t, &two_help, 2, 60);
    ok(s.last == 2 && s.with[1] < 0.02 * s.total, "a long one: %.2f %%", 100 * s.with[1] / s.total);
    s = run(&t, &two_hurt, 2, 60);
    ok(s.last == 1 && s.with[2] < 0.25 * s.total, "when a second thread does not repay: one, %.1f s later",
       s.with[2]);
    s = run(&t, &two_help, 2, 60);
    ok(s.last == 2 && s.with[1] < 0.25 * s.total, "and two when it does again, %.1f s later", s.with[1]);

    t = (struct tuner){0};
    s = run(&t, &two_hurt, 2, 1);
    ok(s.last == 1 && s.with[2] < 0.25, "from the start: one after %.2f s", s.with[2]);
    s = run(&t, &even, 2, 10);
    ok(s.last == 1 && s.with[2] < 0.03 * s.total, "a hundredth is no gain");
    s = run(&t, &two_help, 1, 1);
    ok(s.last == 1 && s.with[1] == s.total, "one may be used: one is");

    t = (struct tuner){0};
    s = run(&t, &stalls, 2, 60);
    ok(s.with[1] < 0.1 * s.total, "with stalls: %.1f %% of the time with the wrong number",
       100 * s.with[1] / s.total);

    for (int n = 1; n <= MOST; n++)
        four.seconds[n] = n <= 4 ? 4e-3 / n : 1e-3 * (1 + 0.1 * (n - 4));
    t = (struct tuner){0};
    s = run(&t, &four, 16, 30);
    ok(s.last == 4 && s.inside, "of 16 the best 4: %d", s.last);
    s = run(&t, &four, 3, 1);
    ok(s.last == 3 && s.inside && s.with[4] == 0, "of 3 all: %d", s.last);

    t = (struct tuner){0};
    s = run(&t, &slow, 2, 30);
    ok(s.last == 2 && s.with[2] == s.total, "long steps are not tried with less");
    return tap_end();
}
