/** Says before the tests what of the host they use, and after them what they could not use. */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CAPABILITIES, filesInPart, filesNeeding, lacking } from './capabilities.ts';

export default function setup(): () => void {
  const problem = lacking('kvm');
  const counts = mkdtempSync(join(tmpdir(), 'tsvisor-test-'));
  process.env.TSVISOR_TEST_COUNTS = counts;
  console.log(problem === undefined ? 'host: /dev/kvm is there and used' : `host: no KVM, ${problem}`);
  if (problem !== undefined && process.env.TSVISOR_REQUIRE_KVM) {
    throw new Error(`TSVISOR_REQUIRE_KVM is set, but ${problem}`);
  }
  return () => {
    const machines = readdirSync(counts)
      .map((name) => Number(readFileSync(join(counts, name), 'utf8')))
      .reduce((sum, count) => sum + count, 0);
    rmSync(counts, { recursive: true });
    if (problem === undefined) {
      console.log(
        `host: ${machines} machines ran on the real /dev/kvm (not counting those of child processes)`,
      );
      if (process.env.TSVISOR_REQUIRE_KVM && machines === 0)
        throw new Error('/dev/kvm is there but no test used it');
    } else {
      const list = (files: string[]) => files.map((file) => `\n  ${file}`).join('');
      const missing = CAPABILITIES.filter((capability) => lacking(capability) !== undefined);
      console.log(`host: left out (${problem}):${list(missing.flatMap(filesNeeding))}`);
      console.log(`host: run in part:${list(filesInPart())}`);
    }
  };
}
