// What a warm-up learns, in float64: the formulas of one group of chains, one coordinate, one trajectory length.
#pragma once
#include <cmath>
#include "chain.h"
#include "macros.h"

EBM_FAST_CORE_BEGIN

constexpr int PROBABILITY = 3;      // of the counters

// Nesterov's dual averaging as Hoffman and Gelman (2014) use it, of group g; returns log e of the next step.
HD inline double dual_average(const AdaptParams& p, int64_t g, double count, double acceptance) {
    constexpr double T0 = 10.0, DECAY = 0.75, FARTHEST = 80.0;      // e is a number of float32
    double *log_step = p.average + g, *average = log_step + p.groups, *error = average + p.groups;
    const double mu = error[p.groups];
    *error += ((p.target - acceptance) - *error) / (count + T0);
    const double log_e = mu - ::sqrt(count) / p.shrinkage * *error;
    *log_step = log_e < -FARTHEST ? -FARTHEST : log_e > FARTHEST ? FARTHEST : log_e;
    *average += ::pow(count, -DECAY) * (*log_step - *average);
    return *log_step;
}

// What a chain adds to the mean over its group, and the acceptance that a mean stands for
HD inline double as_counted(double probability, double least) {
    return least > 0.0 ? 1.0 / (probability < least ? least : probability) : probability;
}
HD inline double acceptance_of(double mean, double least) { return least > 0.0 ? 1.0 / mean : mean; }

// Chan's merger of `states` new ones, of the given mean and sum of squares about it, into those of `count`
HD inline void merge_moments(double count, double states, double new_mean, double new_squares, double& mean, double& squares) {
    const double apart = new_mean - mean, share = states / (count + states);
    squares += new_squares + apart * apart * (count * share);
    mean += apart * share;
}

// Adam on log T with the slope dE/d log T of ChEES; returns T.
HD inline double seek_length(double* search, double slope, double log_step, double longest) {
    constexpr double RATE = 0.025, BETA2 = 0.95, TINY = 1e-8, FARTHEST = 0.35;
    const double count = search[3] += 1.0, square = slope * slope, sure = square - square == 0.0 ? slope : 0.0;
    search[2] += (1.0 - BETA2) * (sure * sure - search[2]);
    double move = RATE * sure / (::sqrt(search[2] / (1.0 - ::pow(BETA2, count))) + TINY);
    move = move - move == 0.0 ? move : 0.0;
    double log = search[0] + (move < -FARTHEST ? -FARTHEST : move > FARTHEST ? FARTHEST : move);
    const double most = log_step + ::log(longest);
    log = log < log_step ? log_step : log > most ? most : log;
    search[0] = log;
    search[1] += (log - search[1]) / ::sqrt(count);
    return ::exp(log);
}

EBM_FAST_CORE_END
