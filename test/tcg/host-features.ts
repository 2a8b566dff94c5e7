/** Features of the host's processor, by the names of the instruction table. */
import { readFileSync } from 'node:fs';

const FLAGS = new Set(
  /^flags\s*:(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'latin1'))?.[1].trim().split(' '),
);
/** Where /proc/cpuinfo has another name. */
const ALIASES: Readonly<Record<string, string>> = { sse3: 'pni', sha: 'sha_ni' };

/** Whether the host's processor has a feature; no feature is had by all. */
export function hostHas(feature: string | undefined): boolean {
  return feature === undefined || FLAGS.has(ALIASES[feature] ?? feature);
}
