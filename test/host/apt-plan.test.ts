/** Sets of packages for systems that have nothing yet. */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { Apt, StaleListsError } from '../../src/host/apt.ts';
import { Cache } from '../../src/host/cache.ts';
import { AptRepository } from '../support/apt-repository.ts';

let folder: string;
let repository: AptRepository;
let apt: Apt;
const progress: number[] = [];
const before = process.env.APT_CONFIG;

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'tsvisor-plan-'));
  repository = new AptRepository(folder);
  await repository.start();
  process.env.APT_CONFIG = repository.writeConfig('apt');
  progress.length = 0;
  apt = new Apt(new Cache(join(folder, 'cache')), undefined, (_, fraction) => progress.push(fraction));
  repository.add('program', '1:2.0-1', 'library (>= 1)', { 'usr/bin/program': 'x'.repeat(5000) });
  repository.add('library', '1.5', '', { 'usr/lib/library': 'x' });
  repository.add('other', '1', '', { 'usr/bin/other': 'x' });
});
afterEach(async () => {
  if (before === undefined) delete process.env.APT_CONFIG;
  else process.env.APT_CONFIG = before;
  await repository.stop();
  rmSync(folder, { recursive: true });
});

const PROGRAM = ['library_1.5_amd64.deb', 'program_1%3a2.0-1_amd64.deb'];
const debs = (path: string) => readdirSync(path).filter((name) => name.endsWith('.deb'));

it('plans and downloads what packages need, and fetches lists for it', async () => {
  const archives = join(folder, 'archives');

  const plan = await apt.plan(['program']);
  await apt.downloadPlan(['program'], archives);

  expect([...plan.files].sort()).toEqual(PROGRAM);
  expect(debs(archives).sort()).toEqual(PROGRAM);
  expect(progress.at(-1)).toBe(1);
});

it('plans the same when it is downloaded already, and does not download it again', async () => {
  const archives = join(folder, 'archives');
  await apt.plan(['program']);
  await apt.downloadPlan(['program'], archives);
  const requests = repository.requests.length;

  const plan = await apt.plan(['program']);
  await apt.downloadPlan(['program'], archives);

  expect([...plan.files].sort()).toEqual(PROGRAM);
  expect(repository.requests.length).toBe(requests);
});

it('says which package there is not', async () => {
  await expect(apt.plan(['program', 'nope'])).rejects.toThrow(
    expect.objectContaining({
      code: 'TSV_E_FETCH',
      message: expect.stringContaining('Unable to locate package nope'),
      hint: expect.not.stringContaining('--kernel'),
    }),
  );
});

it('says when the network is down', async () => {
  process.env.APT_CONFIG = repository.writeConfig('down', 1);

  await expect(apt.plan(['program'])).rejects.toThrow(
    expect.objectContaining({ code: 'TSV_E_FETCH', hint: expect.stringContaining('network') }),
  );
});

it("tells lists of the host's that are out of date from other failures", async () => {
  await apt.plan(['program']); // fetches lists
  repository.lose('library', '1.5');

  const failure = await apt.downloadPlan(['program'], join(folder, 'archives')).catch((error) => error);

  // These lists were fetched just now, so fetching them again would not help.
  expect(failure).not.toBeInstanceOf(StaleListsError);
  expect(failure).toMatchObject({ code: 'TSV_E_FETCH' });
});
