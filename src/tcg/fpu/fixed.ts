/**
 * Elementary functions on bigint fixed-point numbers with FRACTION bits behind the point: the kernel of the x87
 * transcendental instructions. Errors stay far below the last of the 64 bits that are kept of a result.
 */

/** Bits behind the point: arguments down to 2^-68 and exact, cancellation of as much, and 90 good bits. */
export const FRACTION = 160;
const F = BigInt(FRACTION);
const ONE = 1n << F;

function multiply(a: bigint, b: bigint): bigint {
  return (a * b) >> F;
}

/** atanh(1 / n) for small integers. */
function inverseHyperbolic(n: bigint): bigint {
  let power = ONE / n;
  let sum = power;
  for (let k = 3n; power !== 0n; k += 2n) {
    power /= n * n;
    sum += power / k;
  }
  return sum;
}

/** ln 2 */
export const LN2 = 2n * inverseHyperbolic(3n);
/** ln 10, from 10 = 2^3 * 5/4. */
const LN10 = 3n * LN2 + 2n * inverseHyperbolic(9n);
/** log2 e */
export const LOG2E = (ONE << F) / LN2;
/** log2 10 */
export const LOG2T = (LN10 << F) / LN2;
/** log10 2 */
export const LOG10_2 = (LN2 << F) / LN10;

/** pi */
export const PI = 4n * (4n * inverseTangentOf(5n) - inverseTangentOf(239n));

/** atan(1 / n) for small integers. */
function inverseTangentOf(n: bigint): bigint {
  let power = ONE / n;
  let sum = power;
  let sign = -1n;
  for (let k = 3n; power !== 0n; k += 2n) {
    power /= n * n;
    sum += sign * (power / k);
    sign = -sign;
  }
  return sum;
}

/** e^x - 1 for |x| < 1. */
export function expm1(x: bigint): bigint {
  // Eight halvings make the series short; (1 + e)^2 - 1 = e * (e + 2) undoes each.
  const y = x >> 8n;
  let term = y;
  let sum = y;
  for (let k = 2n; term !== 0n && term !== -1n; k++) {
    term = multiply(term, y) / k;
    sum += term;
  }
  for (let i = 0; i < 8; i++) sum = multiply(sum, sum + 2n * ONE);
  return sum;
}

/** ln((1 + s) / (1 - s)) for |s| < 0.2 */
export function logarithm(s: bigint): bigint {
  const square = multiply(s, s);
  let power = s;
  let sum = s;
  for (let k = 3n; power !== 0n && power !== -1n; k += 2n) {
    power = multiply(power, square);
    sum += power / k;
  }
  return 2n * sum;
}

/** sin x for |x| <= 0.8 */
export function sine(x: bigint): bigint {
  const square = multiply(x, x);
  let term = x;
  let sum = x;
  for (let k = 2n; term !== 0n && term !== -1n; k += 2n) {
    term = -multiply(term, square) / (k * (k + 1n));
    sum += term;
  }
  return sum;
}

/** cos x for |x| <= 0.8 */
export function cosine(x: bigint): bigint {
  const square = multiply(x, x);
  let term = ONE;
  let sum = ONE;
  for (let k = 1n; term !== 0n && term !== -1n; k += 2n) {
    term = -multiply(term, square) / (k * (k + 1n));
    sum += term;
  }
  return sum;
}

/** atan(k / 8) for k from 0 to 8, by atan(k/8) - atan((k-1)/8) = atan(8 / (64 + k(k-1))). */
const ARC_TANGENTS = [0n];
for (let k = 1; k <= 8; k++) {
  ARC_TANGENTS.push(ARC_TANGENTS[k - 1] + seriesArcTangent((8n * ONE) / BigInt(64 + k * (k - 1))));
}

function seriesArcTangent(x: bigint): bigint {
  const square = multiply(x, x);
  let power = x;
  let sum = x;
  for (let k = 3n; power !== 0n && power !== -1n; k += 2n) {
    power = -multiply(power, square);
    sum += power / k;
  }
  return sum;
}

/** atan x for x from 0 to 1. */
export function arcTangent(x: bigint): bigint {
  const nearest = Number((x * 8n + (ONE >> 1n)) >> F);
  if (nearest === 0) return seriesArcTangent(x);
  const c = (BigInt(nearest) << F) / 8n;
  return ARC_TANGENTS[nearest] + seriesArcTangent(((x - c) << F) / (ONE + multiply(x, c)));
}
