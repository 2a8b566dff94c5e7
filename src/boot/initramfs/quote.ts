/** Words in the scripts of an initramfs. */

/** A word the shell takes literally. */
export function quote(word: string): string {
  return `'${word.replaceAll("'", "'\\''")}'`;
}
