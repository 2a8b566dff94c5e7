// Writes the tcg engine's interpreter into the build: generating it takes longer than starting a machine.
import { mkdirSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { writeDecodeTable } from '../dist/tcg/interp/decode-table.js';
import { generateInterpreter } from '../dist/tcg/interp/generate.js';
import { FILES } from '../dist/tcg/interpreter.js';
import { INSTRUCTIONS } from '../dist/tcg/table/index.js';

const folder = fileURLToPath(new URL('../dist/tcg/generated/', import.meta.url));
const interpreter = generateInterpreter(INSTRUCTIONS);
mkdirSync(folder, { recursive: true });
writeFileSync(folder + FILES.run, interpreter.run);
writeFileSync(folder + FILES.outOfLine, interpreter.outOfLine);
writeFileSync(folder + FILES.table, writeDecodeTable(interpreter));
