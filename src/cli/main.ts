#!/usr/bin/env node
/** The `tsvisor` command. */
import { runCli } from './cli.ts';
import { reportFailure } from './report-error.ts';
import { signalStatus } from './signals.ts';

const args = process.argv.slice(2);
const json = args.includes('--json');

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
process.exit(status);
