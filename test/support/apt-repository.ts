/** A small Debian repository of made-up packages, served over HTTP, and an apt configuration that knows only it. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmodSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { basename, dirname, join } from 'node:path';

/** A request the server got. */
export interface SeenRequest {
  readonly path: string;
  readonly range: string | undefined;
  readonly ifRange: string | string[] | undefined;
}

export class AptRepository {
  readonly folder: string;
  readonly requests: SeenRequest[] = [];
  /** Cut .deb responses after this many bytes, once. */
  cutAfter: number | undefined;
  readonly #server: Server;
  readonly #packages = new Map<string, string>();

  constructor(folder: string) {
    this.folder = folder;
    this.#server = createServer((request, response) => this.#answer(request, response));
  }

  async start(): Promise<void> {
    mkdirSync(join(this.folder, 'repo'), { recursive: true });
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  /** Writes an apt configuration for $APT_CONFIG: this repository alone, no lists of the host. */
  writeConfig(name: string, port = (this.#server.address() as AddressInfo).port): string {
    const root = join(this.folder, name);
    for (const dir of ['lists/partial', 'cache/archives/partial', 'etc'])
      mkdirSync(join(root, dir), { recursive: true });
    writeFileSync(join(root, 'status'), '');
    writeFileSync(join(root, 'etc/sources.list'), `deb [trusted=yes] http://127.0.0.1:${port}/ ./\n`);
    const config = join(root, 'apt.conf');
    writeFileSync(
      config,
      `Dir::Etc::SourceList "${root}/etc/sources.list";
       Dir::Etc::SourceParts "-";
       Dir::State::Lists "${root}/lists";
       Dir::State::Status "${root}/status";
       Dir::Cache "${root}/cache";
       Acquire::http::Proxy "DIRECT";
       Acquire::Retries "0";
       Acquire::Languages "none";
       APT::Architecture "amd64";
       APT::Architectures "amd64";`,
    );
    return config;
  }

  /** Builds a package from files (contents by path) and lists it. */
  add(name: string, version: string, depends: string, files: Record<string, string | Uint8Array>): void {
    const tree = join(this.folder, 'build', name);
    rmSync(tree, { recursive: true, force: true });
    mkdirSync(join(tree, 'DEBIAN'), { recursive: true });
    const control = `Package: ${name}\nVersion: ${version}\nArchitecture: amd64\nMaintainer: Nobody <nobody@example.org>\nDescription: made up\n${depends === '' ? '' : `Depends: ${depends}\n`}`;
    writeFileSync(join(tree, 'DEBIAN/control'), control);
    for (const [path, content] of Object.entries(files)) {
      mkdirSync(dirname(join(tree, path)), { recursive: true });
      writeFileSync(join(tree, path), content);
    }
    chmodSync(join(tree, 'DEBIAN'), 0o755);
    const deb = join(this.folder, 'repo', `${name}_${version}_amd64.deb`);
    execFileSync('dpkg-deb', ['-Znone', '--root-owner-group', '-b', tree, deb], { stdio: 'ignore' });
    const bytes = readFileSync(deb);
    const sha = createHash('sha256').update(bytes).digest('hex');
    this.#packages.set(
      name,
      `${control}Filename: ./${basename(deb)}\nSize: ${bytes.length}\nSHA256: ${sha}\n`,
    );
  }

  /** Removes a package's file but keeps it listed. */
  lose(name: string, version: string): void {
    rmSync(join(this.folder, 'repo', `${name}_${version}_amd64.deb`));
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const path = decodeURIComponent(request.url!);
    const { range, 'if-range': ifRange } = request.headers;
    const seen = { path, range, ifRange };
    this.requests.push(seen);
    let body: Buffer;
    try {
      if (path.endsWith('/Packages')) body = Buffer.from([...this.#packages.values()].join('\n'));
      else if (path.endsWith('.deb')) body = readFileSync(join(this.folder, 'repo', basename(path)));
      else throw new Error('not here');
    } catch {
      response.writeHead(404).end();
      return;
    }
    const from = Number(/^bytes=(\d+)-/.exec(range ?? '')?.[1] ?? 0);
    const headers: Record<string, string | number> = {
      'content-length': body.length - from,
      'last-modified': 'Thu, 01 Jan 2026 00:00:00 GMT',
    };
    if (from > 0) headers['content-range'] = `bytes ${from}-${body.length - 1}/${body.length}`;
    response.writeHead(from > 0 ? 206 : 200, headers);
    if (path.endsWith('.deb') && this.cutAfter !== undefined) {
      response.write(body.subarray(from, this.cutAfter));
      this.cutAfter = undefined;
      return; // and never the rest
    }
    response.end(body.subarray(from));
  }
}
