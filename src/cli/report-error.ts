/** How the command line shows a failure: code, message and hint, on stderr or as JSON. */
import { type TsvError, toTsvError } from '../errors.ts';

/** Anything thrown, as a TsvError; what is none is a defect of tsvisor. */
export function asTsvError(error: unknown): TsvError {
  const message = error instanceof Error ? error.message : String(error);
  return toTsvError(
    error,
    'TSV_E_INTERNAL',
    message,
    'This is a defect of tsvisor: please report it with TSVISOR_DEBUG=1.',
  );
}

/** The error as text, without a newline at the end. `TSVISOR_DEBUG=1` adds stacks. */
export function formatError(error: TsvError): string {
  const lines = [`tsvisor: ${error.code}: ${error.message}`];
  if (error.hint !== '') lines.push(`  ${error.hint}`);
  if (isDebug()) lines.push(...stacks(error));
  return lines.join('\n');
}

/** The error as a value for JSON. */
export function errorToJson(error: TsvError): Record<string, unknown> {
  return {
    code: error.code,
    message: error.message,
    ...(error.hint !== '' && { hint: error.hint }),
    ...(isDebug() && { stack: stacks(error) }),
  };
}

/** Reports a failure that ends a command. @returns the exit status */
export function reportFailure(thrown: unknown, json: boolean): number {
  const error = asTsvError(thrown);
  if (json) {
    const report = { reason: 'error', status: error.exitStatus, error: errorToJson(error) };
    process.stdout.write(`${JSON.stringify(report)}\n`);
  } else {
    process.stderr.write(`${formatError(error)}\n`);
  }
  return error.exitStatus;
}

function isDebug(): boolean {
  return (process.env.TSVISOR_DEBUG ?? '0') !== '0' && process.env.TSVISOR_DEBUG !== '';
}

function stacks(error: TsvError): string[] {
  const lines: string[] = [];
  for (let cause: unknown = error; cause instanceof Error; cause = cause.cause) {
    lines.push(...(cause.stack ?? String(cause)).split('\n'));
  }
  return lines;
}
