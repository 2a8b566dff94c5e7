/** Every size, offset, constant and ioctl number against the C headers of this machine. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import * as abi from '../../../src/kvm/abi/index.ts';
import * as run from '../../../src/kvm/abi/run.ts';
import type { Codec, ListStruct, Struct } from '../../../src/kvm/abi/struct.ts';

/** Names that headers older than Linux 6.8 do not have. */
const NEWER_THAN_HEADERS = new Set(['KVM_EXIT_MEMORY_FAULT']);

const RUN_NAMES = new Set(Object.keys(run));
const entries = Object.entries<unknown>(abi);
const numbers = entries.filter((e): e is [string, number] => {
  return typeof e[1] === 'number' && e[0].startsWith('KVM_') && !RUN_NAMES.has(e[0]);
});
const structs = entries.map((e) => e[1]).filter(isStruct);
const lists = entries.map((e) => e[1]).filter(isList);

/** `KVM_RUN_MMIO_PHYS_ADDR` is `mmio.phys_addr`: the C member path of each offset constant. */
const RUN_GROUPS = [
  'hw',
  'fail_entry',
  'ex',
  'io',
  'debug',
  'mmio',
  'hypercall',
  'tpr_access',
  'internal',
  'emulation_failure',
  'system_event',
  'eoi',
  'msr',
  'notify',
  's_regs',
];
function runMember(name: string): string {
  const field = name.slice('KVM_RUN_'.length).toLowerCase();
  const group = RUN_GROUPS.filter((g) => field.startsWith(`${g}_`)).sort((a, b) => b.length - a.length)[0];
  if (group === undefined) return field;
  const rest = field.slice(group.length + 1);
  if (group === 's_regs') return `s.regs.${rest}`;
  return `${group}.${group === 'debug' ? 'arch.' : ''}${rest}`;
}
const runOffsets = Object.entries(run).filter(
  ([name]) => !['KVM_RUN_SIZE', 'KVM_RUN_EXIT_DATA'].includes(name),
);

function isStruct(value: unknown): value is Struct<unknown> {
  return typeof value === 'object' && value !== null && 'offsets' in value;
}
function isList(value: unknown): value is ListStruct<unknown> {
  return typeof value === 'object' && value !== null && 'allocate' in value;
}

/** [C member path, offset] of all fields, nested structs included. */
function members(codec: Codec<unknown>, path = '', base = 0): [string, number][] {
  if (!isStruct(codec)) return [];
  return Object.entries(codec.fields).flatMap(([name, field]) => {
    const at = base + codec.offsets[name];
    const member = path === '' ? name : `${path}.${name}`;
    return [[member, at] as [string, number], ...members(field, member, at)];
  });
}

function program(): string {
  const line = (key: string, value: string) => `  printf("%s %lld\\n", "${key}", (long long)(${value}));`;
  const lines = [
    ...numbers.map(
      ([name]) => `#ifdef ${name}\n${line(name, name)}\n#else\n  puts("${name} absent");\n#endif`,
    ),
    ...[...structs, ...lists].map(({ name }) => line(`sizeof ${name}`, `sizeof(struct ${name})`)),
    ...structs.flatMap((layout) =>
      members(layout).map(([member]) =>
        line(`${layout.name}.${member}`, `offsetof(struct ${layout.name}, ${member})`),
      ),
    ),
    line('KVM_RUN_SIZE', 'sizeof(struct kvm_run)'),
    ...runOffsets.map(([name]) => line(name, `offsetof(struct kvm_run, ${runMember(name)})`)),
    line(
      'PIT_CHANNELS',
      'sizeof(((struct kvm_pit_state2 *)0)->channels) / sizeof(struct kvm_pit_channel_state)',
    ),
    line(
      'coalescedMmioMax',
      '(4096 - sizeof(struct kvm_coalesced_mmio_ring)) / sizeof(struct kvm_coalesced_mmio)',
    ),
  ];
  return `#include <stddef.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <linux/kvm.h>
int main(void) {
${lines.join('\n')}
  return 0;
}
`;
}

let header: Map<string, string>;

beforeAll(() => {
  const directory = mkdtempSync(join(tmpdir(), 'tsvisor-abi-'));
  try {
    const source = join(directory, 'abi.c');
    const binary = join(directory, 'abi');
    writeFileSync(source, program());
    const compiler = process.env.CC ?? 'cc';
    const compiled = spawnSync(compiler, ['-o', binary, source], { encoding: 'utf8' });
    if (compiled.error !== undefined) {
      throw new Error(`This test needs a C compiler and <linux/kvm.h>; '${compiler}' could not be run.`, {
        cause: compiled.error,
      });
    }
    if (compiled.status !== 0) throw new Error(`'${compiler}' refused the test program:\n${compiled.stderr}`);
    const printed = spawnSync(binary, { encoding: 'utf8' });
    header = new Map(
      printed.stdout
        .trim()
        .split('\n')
        .map((line) => {
          const space = line.lastIndexOf(' ');
          return [line.slice(0, space), line.slice(space + 1)];
        }),
    );
  } finally {
    rmSync(directory, { recursive: true });
  }
});

test('constants and ioctl numbers are those of the headers', () => {
  const ours = Object.fromEntries(numbers.map(([name, value]) => [name, String(value)]));

  const theirs = Object.fromEntries(
    numbers.map(([name, value]) => {
      const found = header.get(name);
      return [name, found === 'absent' && NEWER_THAN_HEADERS.has(name) ? String(value) : found];
    }),
  );

  expect(numbers.length).toBeGreaterThan(200);
  expect(ours).toEqual(theirs);
});

test('structs have the size and the field offsets of the headers', () => {
  const ours = Object.fromEntries([
    ...[...structs, ...lists].map(({ name, size }) => [`sizeof ${name}`, String(size)]),
    ...structs.flatMap((layout) =>
      members(layout).map(([member, at]) => [`${layout.name}.${member}`, String(at)]),
    ),
  ]);

  const theirs = Object.fromEntries(Object.keys(ours).map((key) => [key, header.get(key)]));

  expect(structs.length).toBeGreaterThan(35);
  expect(ours).toEqual(theirs);
});

test('kvm_run offsets are those of the headers', () => {
  const ours = Object.fromEntries(
    Object.entries(run)
      .filter(([name]) => name !== 'KVM_RUN_EXIT_DATA')
      .map(([name, at]) => [name, String(at)]),
  );

  const theirs = Object.fromEntries(Object.keys(ours).map((key) => [key, header.get(key)]));

  expect(ours).toEqual(theirs);
  expect(run.KVM_RUN_EXIT_DATA).toBe(Number(header.get('KVM_RUN_HW_HARDWARE_EXIT_REASON')));
});

test('derived counts are those of the headers', () => {
  expect(String(abi.PIT_CHANNELS)).toBe(header.get('PIT_CHANNELS'));
  expect(String(abi.coalescedMmioMax(4096))).toBe(header.get('coalescedMmioMax'));
});
