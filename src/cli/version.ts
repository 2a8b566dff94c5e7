/** tsvisor's version, from its package.json. */
import { readFileSync } from 'node:fs';

/** For example "0.1.0". */
export function tsvisorVersion(): string {
  const manifest = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  return (JSON.parse(manifest) as { version: string }).version;
}
