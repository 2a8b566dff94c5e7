import { execFileSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync, gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { buildInitramfs } from '../../../src/boot/initramfs/build.ts';
import { findApplets } from '../../../src/boot/initramfs/busybox.ts';
import { readModinfo } from '../../../src/boot/initramfs/modinfo.ts';
import { resolveModules } from '../../../src/boot/initramfs/modules.ts';

const MODULE_ROOT = 'lib/modules/6.1.0-test';
let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'tsvisor-initramfs-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

const coded = (code: string) => expect.objectContaining({ code, hint: expect.stringMatching(/\w/) });
const refused = coded('TSV_E_INITRAMFS');

/** Names in an archive, as GNU cpio lists them. */
function list(archive: Uint8Array): string[] {
  return cpio(archive, ['-t']).split('\n').filter(Boolean);
}
function contentOf(archive: Uint8Array, path: string): string {
  return cpio(archive, ['-i', '--to-stdout', path]);
}
function cpio(archive: Uint8Array, args: string[]): string {
  return execFileSync('cpio', [...args, '--quiet'], { input: archive, maxBuffer: 2 ** 26 }).toString();
}
function put(path: string, content: string | Uint8Array): string {
  const full = join(folder, path);
  mkdirSync(join(full, '..'), { recursive: true });
  writeFileSync(full, content);
  return full;
}

/** An ELF64 header for x86-64 with one program header of the given type. */
function program(type: number, body: string): Buffer {
  const elf = Buffer.alloc(64 + 56);
  elf.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  elf.writeUInt16LE(2, 16);
  elf.writeUInt16LE(62, 18);
  elf.writeBigUInt64LE(64n, 32);
  elf.writeUInt16LE(56, 54);
  elf.writeUInt16LE(1, 56);
  elf.writeUInt32LE(type, 64);
  return Buffer.concat([elf, Buffer.from(body, 'latin1')]);
}
const APPLETS = '\x07garbage\0[\0[[\0ash\0busybox\0cat\0cttyhack\0mount\0setsid\0sh\0zcat\0\0not\0busybox\0';
const BUSYBOX = program(1, APPLETS);

/** An ELF64 object with a .modinfo section. */
function kernelModule(info: string): Buffer {
  const names = Buffer.from('\0.modinfo\0.shstrtab\0');
  const text = Buffer.from(info, 'latin1');
  const elf = Buffer.alloc(64);
  elf.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  elf.writeBigUInt64LE(BigInt(64 + text.length + names.length), 40);
  elf.writeUInt16LE(64, 58);
  elf.writeUInt16LE(3, 60);
  elf.writeUInt16LE(2, 62);
  const header = (name: number, offset: number, size: number) => {
    const bytes = Buffer.alloc(64);
    bytes.writeUInt32LE(name, 0);
    bytes.writeBigUInt64LE(BigInt(offset), 24);
    bytes.writeBigUInt64LE(BigInt(size), 32);
    return bytes;
  };
  return Buffer.concat([
    elf,
    text,
    names,
    header(0, 0, 0),
    header(1, 64, text.length),
    header(10, 64 + text.length, names.length),
  ]);
}

/** A module folder in which a needs b-two and c, and b-two needs c; with modules.dep only if asked for. */
function moduleFolder(name: string, dep: boolean): string {
  const root = `${name}/${MODULE_ROOT}`;
  put(`${root}/kernel/x/a.ko`, kernelModule('license=GPL\0depends=b-two,c\0name=a\0'));
  put(`${root}/kernel/y/b-two.ko.gz`, gzipSync(kernelModule('depends=c\0name=b_two\0')));
  put(`${root}/kernel/c.ko`, kernelModule('depends=\0name=c\0'));
  put(`${root}/modules.builtin`, 'kernel/lib/crc-thing.ko\n');
  if (dep) {
    const lines =
      'kernel/x/a.ko: kernel/y/b-two.ko.gz kernel/c.ko\nkernel/y/b-two.ko.gz: kernel/c.ko\nkernel/c.ko:\n';
    put(`${root}/modules.dep`, `${lines}../../../../etc/passwd.ko:\n`);
  }
  return join(folder, root);
}

describe('buildInitramfs', () => {
  it('always has a console and is otherwise empty', async () => {
    const archive = await buildInitramfs({});

    expect(list(archive)).toEqual(['dev', 'dev/console', 'dev/null']);
  });

  it('takes files and trees of the host with their permissions', async () => {
    put('tree/sub/file', 'hello');
    put('tree/run', '#!/bin/sh\n');
    chmodSync(join(folder, 'tree/run'), 0o751);
    symlinkSync('sub/file', join(folder, 'tree/link'));

    const archive = await buildInitramfs({
      files: [
        { source: join(folder, 'tree'), path: '/opt/tree' },
        { source: join(folder, 'tree/link'), path: 'copy', mode: 0o600 },
      ],
    });

    expect(list(archive)).toContain('opt/tree/sub/file');
    expect(contentOf(archive, 'copy')).toBe('hello');
    const long = cpio(archive, ['-t', '-v']);
    expect(long).toMatch(/-rwxr-x--x.*opt\/tree\/run\n/);
    expect(long).toMatch(/lrwxrwxrwx.*opt\/tree\/link -> sub\/file\n/);
    expect(long).toMatch(/-rw-------.*copy\n/);
  });

  it('takes files, directories, links and nodes made up by the caller', async () => {
    const archive = await buildInitramfs({
      contents: [{ path: 'etc/motd', content: 'hi' }],
      directories: [{ path: 'tmp', mode: 0o1777 }],
      symlinks: [{ path: 'etc/alias', target: 'motd' }],
      nodes: [
        { type: 'char', path: 'dev/ttyS0', major: 4, minor: 64, mode: 0o620 },
        { type: 'fifo', path: 'run/pipe' },
        { type: 'char', path: 'dev/console', major: 5, minor: 1, mode: 0o622 },
      ],
      init: '#!/bin/sh\n',
    });

    const long = cpio(archive, ['-t', '-v']).replace(/ +/g, ' ');
    expect(long).toMatch(/drwxrwxrwt.* tmp\n/);
    expect(long).toMatch(/crw--w----.* 4, 64 .* dev\/ttyS0\n/);
    expect(long).toMatch(/crw--w--w-.* 5, 1 .* dev\/console\n/);
    expect(long).toMatch(/-rwxr-xr-x.* init\n/);
  });

  it('is deterministic, also when packed', async () => {
    const build = () => buildInitramfs({ contents: [{ path: 'a', content: 'x' }], compression: 'gzip' });

    const [first, second] = [await build(), await build()];

    expect(first).toEqual(second);
    expect(list(gunzipSync(first))).toContain('a');
  });

  it('brings busybox with a link for each applet and an /init', async () => {
    const archive = await buildInitramfs({ busybox: put('busybox', BUSYBOX), command: 'echo "$HOME"' });

    expect(list(archive).filter((p) => p.startsWith('bin/'))).toEqual([
      'bin/[',
      'bin/[[',
      'bin/ash',
      'bin/busybox',
      'bin/cat',
      'bin/cttyhack',
      'bin/mount',
      'bin/setsid',
      'bin/sh',
      'bin/zcat',
    ]);
    const script = contentOf(archive, 'init');
    execFileSync('sh', ['-n'], { input: script });
    expect(script).toMatch(/^#!\/bin\/sh\n[\s\S]*\necho "\$HOME"\n[\s\S]*poweroff -f\n$/);
  });

  it('starts an interactive shell when there is no command', async () => {
    const archive = await buildInitramfs({ busybox: put('busybox', BUSYBOX) });

    expect(contentOf(archive, 'init')).toContain('\nsetsid cttyhack sh\n');
  });

  it('greets, mounts what it is told to, and takes that off again at the end', async () => {
    const archive = await buildInitramfs({
      busybox: put('busybox', BUSYBOX),
      greeting: "it's up",
      mounts: [
        { device: '/dev/vda', path: '/a b', type: 'ext4', options: 'ro', problem: 'no first' },
        { device: 'tmpfs', path: '/c', type: 'tmpfs', problem: 'no second' },
      ],
    });

    const script = contentOf(archive, 'init');
    execFileSync('sh', ['-n'], { input: script });
    expect(script).toContain("mount -t 'ext4' -o 'ro' '/dev/vda' '/a b' || {\n  echo 'no first'\n");
    expect(script).toMatch(
      /mkdir -p '\/c'[\s\S]*echo 'it'\\''s up'\n.*sh\n[\s\S]*umount '\/c'[\s\S]*umount '\/a b'/,
    );
    execFileSync('sh', ['-n'], { input: contentOf(archive, 'etc/tsvisor.sh') });
  });

  it('leaves an /init of the caller alone', async () => {
    const archive = await buildInitramfs({
      busybox: put('busybox', BUSYBOX),
      contents: [{ path: '/init', content: 'mine', mode: 0o755 }],
    });

    expect(contentOf(archive, 'init')).toBe('mine');
  });

  it('loads modules in /init after what they depend on', async () => {
    const archive = await buildInitramfs({
      busybox: put('busybox', BUSYBOX),
      modules: { root: moduleFolder('init', true), names: ['a'] },
    });

    const loads = contentOf(archive, 'init').match(/insmod '.*'/g);
    expect(loads).toEqual([
      `insmod '/${MODULE_ROOT}/kernel/c.ko'`,
      `insmod '/${MODULE_ROOT}/kernel/y/b-two.ko'`,
      `insmod '/${MODULE_ROOT}/kernel/x/a.ko'`,
    ]);
    expect(contentOf(archive, `${MODULE_ROOT}/modules.dep`)).toBe(
      'kernel/c.ko:\nkernel/y/b-two.ko: kernel/c.ko\nkernel/x/a.ko: kernel/y/b-two.ko kernel/c.ko\n',
    );
    expect(contentOf(archive, `${MODULE_ROOT}/kernel/y/b-two.ko`)).toContain('name=b_two');
  });

  it('keeps modules compressed for a kernel that can unpack them', async () => {
    const root = moduleFolder('packed', true);

    const archive = await buildInitramfs({ modules: { root, names: ['b_two'], decompress: false } });

    expect(list(archive)).toContain(`${MODULE_ROOT}/kernel/y/b-two.ko.gz`);
  });

  it('reports host files that cannot be read', async () => {
    const socket = createServer().listen(join(folder, 'sockets.sock'));
    const socketFolder = join(folder, 'socket-folder');
    mkdirSync(socketFolder);
    const inFolder = createServer().listen(join(socketFolder, 's'));
    const from = (source: string) => buildInitramfs({ files: [{ source, path: 'x' }] });

    await expect(from(join(folder, 'missing'))).rejects.toThrow(coded('TSV_E_FILE'));
    execFileSync('mkfifo', [join(folder, 'pipe')]);
    await expect(from(join(folder, 'pipe'))).rejects.toThrow(coded('TSV_E_FILE'));
    await expect(from('/dev/null')).rejects.toThrow(coded('TSV_E_FILE'));
    await expect(from(join(folder, 'sockets.sock'))).rejects.toThrow(coded('TSV_E_FILE'));
    await expect(from(socketFolder)).rejects.toThrow(refused);
    socket.close();
    inFolder.close();
  });

  it('refuses a file twice, and a command without a shell', async () => {
    const twice = [
      { path: 'a', content: '' },
      { path: '/a', content: '' },
    ];
    await expect(buildInitramfs({ contents: twice })).rejects.toThrow(refused);
    await expect(buildInitramfs({ command: 'ls' })).rejects.toThrow(refused);
  });

  it.each([
    ['an empty file', ''],
    ['a script', '#!/bin/sh\n'],
    ['a program that is no busybox', program(1, '\0hello\0')],
    ['a dynamically linked busybox', program(3, APPLETS)],
    ['a busybox without a shell', program(1, '\0busybox\0cat\0\0')],
    ['a cut-off ELF file', BUSYBOX.subarray(0, 70)],
  ])('refuses %s as busybox', async (_, content) => {
    const busybox = put('other-busybox', content);

    await expect(buildInitramfs({ busybox })).rejects.toThrow(refused);
  });
});

describe('findApplets', () => {
  it('survives any bytes', () => {
    const piece = fc.oneof(
      fc.string({ maxLength: 5 }),
      fc.constantFrom('\0', '\0busybox\0', 'sh\0', 'a\0b\0'),
    );
    fc.assert(
      fc.property(fc.array(piece), (pieces) => {
        const names = findApplets(Buffer.from(pieces.join(''), 'latin1'));

        expect(names).toEqual([...names].sort());
      }),
    );
  });
});

describe('resolveModules', () => {
  it.each([true, false])(
    'orders by modules.dep or, without one, by the modules (modules.dep: %s)',
    async (dep) => {
      const root = moduleFolder(`order-${dep}`, dep);

      expect(await resolveModules({ root, names: ['c', 'a', 'crc_thing', 'b_two'] })).toEqual([
        'kernel/c.ko',
        'kernel/y/b-two.ko.gz',
        'kernel/x/a.ko',
      ]);
    },
  );

  it('survives modules that need each other', async () => {
    const root = join(folder, 'cycle', MODULE_ROOT);
    put(`cycle/${MODULE_ROOT}/p.ko`, kernelModule('depends=q\0'));
    put(`cycle/${MODULE_ROOT}/q.ko`, kernelModule('depends=p\0'));

    expect((await resolveModules({ root, names: ['p'] })).sort()).toEqual(['p.ko', 'q.ko']);
  });

  it('says which module is missing', async () => {
    const root = moduleFolder('missing', false);

    await expect(resolveModules({ root, names: ['nope'] })).rejects.toThrow(/no module nope/);
    await expect(resolveModules({ root: join(folder, 'none'), names: [] })).rejects.toThrow(
      coded('TSV_E_FILE'),
    );
  });

  it('does not follow modules.dep out of its folder', async () => {
    const root = moduleFolder('escape', true);

    await expect(resolveModules({ root, names: ['passwd'] })).rejects.toThrow(refused);
  });

  it('refuses modules that are damaged', async () => {
    const root = join(folder, 'damaged', MODULE_ROOT);
    put(`damaged/${MODULE_ROOT}/m.ko`, 'no module');
    put(`damaged/${MODULE_ROOT}/n.ko.gz`, gzipSync('x').subarray(0, 12));

    await expect(resolveModules({ root, names: ['m'] })).rejects.toThrow(refused);
    await expect(resolveModules({ root, names: ['n'] })).rejects.toThrow(coded('TSV_E_KERNEL_FORMAT'));
  });
});

describe('readModinfo', () => {
  it('reads keys that are there several times', () => {
    expect(readModinfo(kernelModule('alias=x\0alias=y=z\0rubbish\0'), 'm').get('alias')).toEqual([
      'x',
      'y=z',
    ]);
  });

  it('answers or refuses, whatever the file holds', () => {
    const whole = kernelModule('depends=a,b\0');
    const change = fc.record({ at: fc.nat(whole.length - 1), value: fc.nat(255) });
    fc.assert(
      fc.property(fc.array(change, { maxLength: 8 }), fc.nat(whole.length), (changes, length) => {
        const file = Buffer.from(whole);
        for (const { at, value } of changes) file[at] = value;
        try {
          readModinfo(file.subarray(0, length), 'm');
        } catch (error) {
          expect(error).toEqual(refused);
        }
      }),
      { numRuns: 1000 },
    );
  });
});
