/** Medians and spreads of repeated measurements. */

/** The value below which a share of the samples lies; linear between neighbours. */
export function quantile(samples, share) {
  const sorted = [...samples].sort((a, b) => a - b);
  const at = (sorted.length - 1) * share;
  const low = Math.floor(at);
  const high = Math.ceil(at);
  return sorted[low] + (sorted[high] - sorted[low]) * (at - low);
}

/** Median with the quartiles as its spread: half of the samples lie between `low` and `high`. */
export function summarize(samples) {
  return {
    median: quantile(samples, 0.5),
    low: quantile(samples, 0.25),
    high: quantile(samples, 0.75),
    samples: samples.length,
  };
}

/**
 * How much `ours` is of `theirs`: the median of the ratios of samples taken in the same round, so that what else the
 * host did at that time is in both.
 */
export function ratio(ours, theirs) {
  return summarize(ours.map((value, round) => value / theirs[round]));
}

/**
 * A row of a table: one part of the samples of a program.
 * @param samples by program, each an object of figures
 * @param against the program that it is compared with, if that was measured as well
 */
export function compareRow(name, samples, part, program, against) {
  const figures = (of) => samples[of].map((sample) => sample[part]);
  const ours = figures(program);
  const compared = against !== undefined && samples[against] !== undefined;
  return {
    name,
    value: summarize(ours),
    ...(compared && { ratios: { [against]: ratio(ours, figures(against)) } }),
  };
}

/**
 * Measures several things in turn, round after round, each round starting with another one, so that a load on the
 * host meets all of them.
 * @param series functions by name; each returns one sample
 * @param warmups rounds at the start that are not counted
 * @returns the samples by name, in the order of the rounds
 */
export async function interleave(series, rounds, warmups = 1) {
  const names = Object.keys(series);
  const samples = Object.fromEntries(names.map((name) => [name, []]));
  for (let round = -warmups; round < rounds; round++) {
    for (let i = 0; i < names.length; i++) {
      const name = names[(i + round + warmups) % names.length];
      const sample = await series[name]();
      if (round >= 0) samples[name].push(sample);
    }
  }
  return samples;
}
