/*
 * Trials of other numbers of threads: see tuner.h.
 *
 * A trial is BURSTS bursts of steps, in turn with the number that was settled on and with another, so that
 * what else happens on the machine meets both.  The first step of a burst, in which threads start, is not
 * timed.  Trials become rarer, and longer, while their answer stays the same.
 */
#include "tuner.h"

#define BURSTS        6
#define BURST_SECONDS 0.003
#define BURST_SHARE   0.005 /* of the time since the last trial, where that is more */
#define FIRST_WAIT    0.1
#define LONGEST_WAIT  8.0
#define WAIT_TRIALS   32   /* between two trials at least so many times the time of one */
#define WAIT_STEPS    50   /* and so many steps */
#define LONGEST_STEP  0.05 /* seconds; longer ones lose little, and trials of them would cost much */
#define GAIN          1.05 /* by which more threads must be faster */

static void begin(struct tuner *t, int most)
{
    *t = (struct tuner){.most = most, .used = most, .wait = FIRST_WAIT, .burst = -1};
}

/* Another number to try; that in use where there is none. */
static int candidate(struct tuner *t)
{
    bool up = t->used == 1 || (t->up && t->used < t->most);

    t->up = !up;
    if (up)
        return 2 * t->used < t->most ? 2 * t->used : t->most;
    return t->used / 2;
}

static void begin_trial(struct tuner *t)
{
    t->other = candidate(t);
    t->burst = 0;
    t->steps = 0;
    t->time[0] = t->time[1] = t->now = 0;
    t->timed[0] = t->timed[1] = 0;
}

/* Settles on the better number. */
static void end_trial(struct tuner *t)
{
    double used = t->time[0] / (double) t->timed[0], other = t->time[1] / (double) t->timed[1];
    double least = WAIT_TRIALS * (t->time[0] + t->time[1]);

    if (t->other < t->used ? other < used * GAIN : other * GAIN < used) {
        t->used = t->other;
        t->wait = t->wait / 4 > FIRST_WAIT ? t->wait / 4 : FIRST_WAIT;
    } else
        t->wait = 4 * t->wait < LONGEST_WAIT ? 4 * t->wait : LONGEST_WAIT;
    t->wait = t->wait > least ? t->wait : least;
    t->burst = -1;
    t->steps = 0;
    t->settled = 0;
}

/* A step of the trial at hand. */
static void take_step(struct tuner *t, double seconds)
{
    int side = t->burst % 2;

    t->now += seconds;
    if (t->steps++ > 0) {
        t->time[side] += seconds;
        t->timed[side]++;
    }
    if (t->steps < 2 || t->now < BURST_SECONDS || t->now < BURST_SHARE * t->settled)
        return;
    t->steps = 0;
    t->now = 0;
    if (++t->burst == BURSTS)
        end_trial(t);
}

int tuner_step(struct tuner *t, int most, double seconds)
{
    if (most != t->most)
        begin(t, most);
    else if (t->burst >= 0)
        take_step(t, seconds);
    else {
        t->settled += seconds;
        t->steps++;
        if (most > 1 && seconds < LONGEST_STEP && t->settled >= t->wait && t->steps >= WAIT_STEPS)
            begin_trial(t);
    }
    return t->burst >= 0 && t->burst % 2 == 1 ? t->other : t->used;
}
