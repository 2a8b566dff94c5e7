/** `tsvisor doctor`: what this host can do, and how to repair what it cannot. */
import type { CliCommand } from '../cli.ts';
import type { Check, Section, Verdict } from '../doctor/check.ts';

/** Exit status when no engine can be used; that of host errors. */
const STATUS_NO_ENGINE = 4;

export const doctorCommand: CliCommand<{ json?: boolean }> = {
  name: 'doctor',
  describe:
    'Examines this host: KVM, permissions, CPU features, speed of both engines; and says how to repair what is wrong.',
  options: { json: { type: 'boolean', describe: 'print everything as JSON' } },
  examples: [['tsvisor doctor', '']],
  epilogue: 'Exit status: 0 when at least one engine can be used, else 4.',
  async run({ json }) {
    const host = await import('../doctor/host.ts');
    const { kvmFindings } = await import('../doctor/kvm.ts');
    const { checks, engine } = kvmFindings();
    const { tcgCheck } = await import('../doctor/tcg.ts');
    const engines = [engine, tcgCheck()];
    const sections: Section[] = [
      { title: 'Host', checks: host.hostChecks() },
      { title: 'KVM', checks },
      { title: 'Memory', checks: host.memoryChecks() },
      { title: 'Limits and tools', checks: [...host.limitChecks(), ...host.toolChecks()] },
      { title: 'Engines', checks: engines },
    ];
    const usable = engines.some(({ verdict }) => verdict === 'ok');
    const status = usable ? 0 : STATUS_NO_ENGINE;
    const all = sections.flatMap((section) => section.checks);
    process.stdout.write(
      json
        ? `${JSON.stringify({ usable, status, checks: all }, null, 2)}\n`
        : formatSections(sections, colours()),
    );
    return status;
  },
};

function colours(): boolean {
  return process.stdout.isTTY === true && !process.env.NO_COLOR && process.env.TERM !== 'dumb';
}

// ECMA-48 SGR: green, yellow, red.
const COLOURS: Readonly<Record<Verdict, number>> = { ok: 32, warn: 33, fail: 31 };

/** The findings as text. */
export function formatSections(sections: readonly Section[], colour: boolean): string {
  const lines = sections.flatMap(({ title, checks }) => [
    title,
    ...checks.flatMap((check) => formatCheck(check, colour)),
    '',
  ]);
  return `${lines.join('\n').trimEnd()}\n`;
}

function formatCheck({ title, verdict, detail, repair }: Check, colour: boolean): string[] {
  const mark = verdict.padEnd(4);
  const shown = colour ? `\x1b[${COLOURS[verdict]}m${mark}\x1b[0m` : mark;
  const lines = [`  ${shown}  ${title.padEnd(22)} ${detail}`];
  if (repair !== undefined && repair !== '') lines.push(`${' '.repeat(31)}-> ${repair}`);
  return lines;
}
