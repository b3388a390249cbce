/*
 * How many of the threads that a run may use it does use: as many as repay themselves.
 *
 * Two threads that meet some fifty times a step are slower than one where a step is tiny, or where other
 * processes take a processor away: then every meeting waits for the thread that is not running.  So steps are
 * timed, now and then, with half or twice as many threads.  Results do not depend on any of it.
 */
#ifndef TLAW_TUNER_H
#define TLAW_TUNER_H

#include <stdbool.h>

/* All zeros to begin with. */
struct tuner {
    int most, used; /* threads: allowed; settled on */
    bool up;        /* the next trial is with more, where there are more */
    double wait;    /* seconds of steps between the last trial and the next */
    double settled; /* seconds of steps since the last trial */
    long steps;     /* since the last trial, or of the burst at hand */
    int burst;      /* of the trial at hand: even with `used`, odd with `other`; -1: no trial */
    int other;      /* threads */
    double time[2]; /* of the timed steps with `used` and with `other` */
    long timed[2];  /* those steps */
    double now;     /* seconds of the burst */
};

/* Takes the time of the last step, made with the threads that the last call returned (`most` before the
 * first); returns those of the next, 1 to most. */
int tuner_step(struct tuner *, int most, double seconds);

#endif
