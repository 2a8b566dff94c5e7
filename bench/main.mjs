/** `npm run bench [-- NAME...] [--json] [--quick]`: runs the benchmarks named, or all, and prints their tables. */
import { parseArgs } from 'node:util';
import { boot } from './boot.mjs';
import { debian } from './debian.mjs';
import { disk } from './disk.mjs';
import { exits } from './exits.mjs';
import { handover } from './handover.mjs';
import { describeHost } from './lib/host.mjs';
import { formatReport } from './lib/report.mjs';
import { loops } from './loops.mjs';
import { memory } from './memory.mjs';
import { serial } from './serial.mjs';
import { startup } from './startup.mjs';
import { virtio } from './virtio.mjs';

const BENCHMARKS = { exits, handover, serial, startup, memory, loops, boot, disk, debian, virtio };

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { json: { type: 'boolean' }, quick: { type: 'boolean' } },
});
const unknown = positionals.filter((name) => !(name in BENCHMARKS));
if (unknown.length > 0) {
  console.error(
    `There is no benchmark ${unknown.join(', ')}. There are: ${Object.keys(BENCHMARKS).join(', ')}.`,
  );
  process.exit(2);
}
const names = positionals.length > 0 ? positionals : Object.keys(BENCHMARKS);
const host = describeHost();
if (!values.json) for (const [what, value] of Object.entries(host)) console.log(`${what.padEnd(12)}${value}`);

const reports = {};
for (const name of names) {
  const progress = (what) => process.stderr.isTTY && process.stderr.write(`\r\x1b[K${name}: ${what}`);
  reports[name] = await BENCHMARKS[name]({ quick: values.quick ?? false, progress });
  if (process.stderr.isTTY) process.stderr.write('\r\x1b[K');
  if (!values.json) console.log(formatReport(reports[name]));
}
if (values.json) console.log(JSON.stringify({ host, reports }, undefined, 2));
