import { expect, it } from 'vitest';
import { LIMIT, runGuest, SECTIONS, sections } from './guest.ts';
import { Programs } from './programs.ts';

/** Names of what runs in one boot, with the arguments; the order is that of the sections. */
const RUNS: readonly (readonly [name: string, ...args: string[]])[] = [
  ['float'],
  ['float387'],
  ['signals'],
  ['jit'],
  ['changes'],
  ['processes', '500'],
  ['threads', '4', '2000'],
];

it.each([
  ['the default CPU', undefined, 1, ['sse2', 'flush-to-zero', 'sse4.1', 'sse4.2']],
  [
    'every feature and two vCPUs',
    'host',
    2,
    ['sse2', 'flush-to-zero', 'sse4.1', 'sse4.2', 'aes', 'pclmulqdq', 'sha', 'bmi'],
  ],
] as const)(
  'runs programs like the host: floating point, faults, changing code and mappings, processes, threads (%s)',
  async (_, cpu, cpus, vectorTests) => {
    using programs = new Programs()
      .compile('float')
      .compile('float', { name: 'float387', flags: ['-mfpmath=387'] })
      .compile('signals')
      .compile('jit')
      .compile('changes')
      .compile('processes')
      .compile('threads')
      .compile('simd')
      .compile('clock');
    const expected = Object.fromEntries(
      RUNS.map(([name, ...args]) => [name, `${programs.onHost(name, ...args)}status 0`]),
    );

    const { exit, console } = await runGuest({
      cpus,
      cpu,
      script: [
        SECTIONS,
        ...RUNS.map((words) => `section ${words[0]}; /bin/${words.join(' ')}; end`),
        'section simd; simd; end',
        `section clock; clock ${cpus} 1000; end`,
      ].join('\n'),
      initramfs: { files: programs.files },
    });

    const found = sections(console);
    for (const [name, text] of Object.entries(expected))
      expect({ [name]: found[name] }).toEqual({ [name]: text });
    const names = found.simd.split('\n').map((line) => line.split(' ')[0]);
    expect(names).toEqual([...vectorTests, 'status']);
    // The host's processor may lack what the guest's has.
    const hostLines = programs.onHost('simd').trim().split('\n');
    const comparable = hostLines.filter((line) => names.includes(line.split(' ')[0]));
    expect(found.simd.split('\n')).toEqual(expect.arrayContaining(comparable));
    expect(found.clock).toBe('monotonic 0\nraw 0\nrealtime 0\ntsc 0\nread often\nstatus 0');
    expect(exit.reason).toBe('poweroff');
  },
  LIMIT + 60_000,
);
