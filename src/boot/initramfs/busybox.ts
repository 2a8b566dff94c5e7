/** Puts busybox and its applet links into the tree. */
import { TsvError } from '../../errors.ts';
import { readHostFile } from './host-files.ts';
import type { FileTree } from './tree.ts';

// ELF64 header fields (System V ABI).
const ELF64_LE_MAGIC = [0x7f, 0x45, 0x4c, 0x46, 2, 1];
const E_MACHINE = 18;
const E_PHOFF = 32;
const E_PHENTSIZE = 54;
const E_PHNUM = 56;
const EM_X86_64 = 62;
const PT_INTERP = 3;
/** Size of Elf64_Ehdr. */
const EHDR_SIZE = 64;

/**
 * Adds /bin/busybox and a link in /bin for each of its applets.
 * @param source a statically linked busybox for x86-64
 * @returns the applets' names
 * @throws TSV_E_FILE, TSV_E_INITRAMFS when it is not one
 */
export async function addBusybox(tree: FileTree, source: string): Promise<string[]> {
  const data = await readHostFile(source);
  checkStatic(data, source);
  const applets = findApplets(data);
  if (!applets.includes('sh')) {
    throw new TsvError('TSV_E_INITRAMFS', `"${source}" is not busybox with a shell.`, {
      hint: 'Use the busybox of the Debian package busybox-static, or one built with CONFIG_ASH.',
    });
  }
  tree.add({ type: 'file', path: 'bin/busybox', mode: 0o755, data });
  for (const applet of applets) {
    if (applet !== 'busybox')
      tree.add({ type: 'symlink', path: `bin/${applet}`, mode: 0o777, target: 'busybox' });
  }
  return applets;
}

/**
 * The applets of a busybox binary. It is not executed, it may come from anywhere: busybox holds its applets' names as
 * one sorted run of NUL-terminated strings (include/applet_tables.h), in which "busybox" itself stands.
 */
export function findApplets(binary: Uint8Array): string[] {
  const bytes = Buffer.from(binary.buffer, binary.byteOffset, binary.length);
  let longest: string[] = [];
  const needle = '\0busybox\0';
  for (let at = bytes.indexOf(needle); at >= 0; at = bytes.indexOf(needle, at + 1)) {
    const names = ['busybox'];
    for (let end = at; ; ) {
      const start = bytes.lastIndexOf(0, end - 1) + 1;
      const name = end > 0 ? bytes.toString('latin1', start, Math.min(end, start + 64)) : '';
      if (!isAppletName(name) || name >= names[0] || end - start > 64) break;
      names.unshift(name);
      end = start - 1;
    }
    for (let start = at + needle.length; ; ) {
      const end = bytes.indexOf(0, start);
      const name = end >= 0 && end - start <= 64 ? bytes.toString('latin1', start, end) : '';
      if (!isAppletName(name) || name <= names[names.length - 1]) break;
      names.push(name);
      start = end + 1;
    }
    if (names.length > longest.length) longest = names;
  }
  return longest;
}

function isAppletName(name: string): boolean {
  return /^(?:\[\[?|[a-z0-9][a-z0-9_.+-]*)$/.test(name);
}

function checkStatic(data: Uint8Array, source: string): void {
  const view = new DataView(data.buffer, data.byteOffset, data.length);
  const elf = data.length >= EHDR_SIZE && ELF64_LE_MAGIC.every((byte, i) => data[i] === byte);
  if (!elf || view.getUint16(E_MACHINE, true) !== EM_X86_64) {
    throw new TsvError('TSV_E_INITRAMFS', `"${source}" is not a program for x86-64.`, {
      hint: 'Use the busybox of the Debian package busybox-static.',
    });
  }
  const table = Number(view.getBigUint64(E_PHOFF, true));
  const size = view.getUint16(E_PHENTSIZE, true);
  for (let i = 0; i < view.getUint16(E_PHNUM, true); i++) {
    const at = table + i * size;
    if (at + 4 > data.length) break;
    if (view.getUint32(at, true) === PT_INTERP) {
      throw new TsvError(
        'TSV_E_INITRAMFS',
        `"${source}" is dynamically linked; its libraries would be missing.`,
        {
          hint: 'Use a static busybox, such as that of the Debian package busybox-static.',
        },
      );
    }
  }
}
