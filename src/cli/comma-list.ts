/** Option values of the form VALUE[,KEY=VALUE|FLAG]..., in which a comma that belongs to a value is written twice. */

/** The parts of a value. */
export interface CommaList {
  /** What is in front of the first comma. */
  readonly first: string;
  readonly values: ReadonlyMap<string, string>;
  readonly flags: ReadonlySet<string>;
}

/** Which keys there are; one that may go with and without a value is in both lists. */
export interface CommaListSyntax {
  readonly values: readonly string[];
  readonly flags: readonly string[];
}

/** Takes a value apart. @param refuse throws for a part that is unknown or there twice */
export function parseCommaList(
  text: string,
  syntax: CommaListSyntax,
  refuse: (part: string) => never,
): CommaList {
  // No argument of a program has a NUL.
  const [first, ...parts] = text
    .replaceAll(',,', '\0')
    .split(',')
    .map((part) => part.replaceAll('\0', ','));
  const values = new Map<string, string>();
  const flags = new Set<string>();
  for (const part of parts) {
    const [, key, value] = /^([^=]*)(?:=(.*))?$/s.exec(part)!;
    const known = value === undefined ? syntax.flags : syntax.values;
    if (!known.includes(key) || values.has(key) || flags.has(key)) refuse(part);
    if (value === undefined) flags.add(key);
    else values.set(key, value);
  }
  return { first, values, flags };
}
