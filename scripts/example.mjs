// Runs one of the examples by name: npm run example hello-port
import { existsSync, readdirSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

const directory = new URL('../dist/examples/', import.meta.url);
const name = process.argv[2];
const file = new URL(`${name}.js`, directory);
if (name === undefined || !existsSync(file)) {
  const names = readdirSync(directory)
    .filter((entry) => entry.endsWith('.js'))
    .map((entry) => entry.slice(0, -3));
  console.error(`Which example? ${names.join(', ')}`);
  process.exitCode = 2;
} else {
  await import(pathToFileURL(file.pathname).href);
}
