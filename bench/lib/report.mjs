/** What a benchmark found, as a table. */

/**
 * A report: `rows` of { name, value, ratios }, where `value` is a summary of stats.mjs or a text that says why there is
 * none, and `ratios` are summaries by the name of what the row is compared with.
 */
export function formatReport({ title, unit, digits = 1, rows, notes = [] }) {
  const lines = [['', unit, 'half of the samples', 'compared with', 'ratio']];
  for (const { name, value, ratios = {} } of rows) {
    const compared = Object.entries(ratios);
    const figures =
      typeof value === 'string'
        ? [value, '']
        : [value.median.toFixed(digits), `${value.low.toFixed(digits)} to ${value.high.toFixed(digits)}`];
    const [first = ['', undefined], ...others] = compared;
    lines.push([name, ...figures, first[0], formatRatio(first[1])]);
    for (const [other, ratio] of others) lines.push(['', '', '', other, formatRatio(ratio)]);
  }
  const table = alignColumns(lines);
  return `\n## ${title}\n\n${table}\n${notes.map((note) => `\n- ${note}`).join('')}\n`;
}

function formatRatio(ratio) {
  if (ratio === undefined) return '';
  return `${ratio.median.toFixed(2)} (${ratio.low.toFixed(2)} to ${ratio.high.toFixed(2)})`;
}

/** A Markdown table that is also readable as it is. */
function alignColumns(lines) {
  // A text in place of a figure must not make its column wide.
  const widths = lines[0].map((_, column) =>
    Math.max(3, ...lines.filter((line) => column !== 1 || line[2] !== '').map((line) => line[column].length)),
  );
  const rows = lines.map((line) => `| ${line.map((cell, i) => cell.padEnd(widths[i])).join(' | ')} |`);
  rows.splice(1, 0, `| ${widths.map((width) => '-'.repeat(width)).join(' | ')} |`);
  return rows.join('\n');
}
