#!/usr/bin/env node
/** The `tsvisor` command. */
import { runCli } from './cli.ts';
import { reportFailure } from './report-error.ts';
import { signalStatus } from './signals.ts';

const args = process.argv.slice(2);
const json = args.includes('--json');
/** How long a reader that is behind may take for what is still to be written. */
const LAST_WORDS_MS = 2000;

process.on('uncaughtException', (error) => process.exit(reportFailure(error, json)));
for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    // The reader has gone, as in `tsvisor ... | head`: nothing is wrong, and there is nobody to tell.
    process.exit(signalStatus(error.code === 'EPIPE' ? 'SIGPIPE' : 'SIGABRT'));
  });
}

let status: number;
try {
  status = await runCli(args);
} catch (error) {
  status = reportFailure(error, json);
}
// A pipe that both streams lead to may be non-blocking, and what it had no room for is lost with the process.
const written = [process.stdout, process.stderr].map(
  (stream) => new Promise<void>((resolve) => stream.write('', () => resolve())),
);
await Promise.race([Promise.all(written), new Promise((resolve) => setTimeout(resolve, LAST_WORDS_MS))]);
process.exit(status);
