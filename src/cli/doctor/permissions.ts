/** Who may open /dev/kvm, and what to type so that this user may. */
import { accessSync, constants, existsSync, readFileSync, statSync } from 'node:fs';
import { userInfo } from 'node:os';
import type { Check } from './check.ts';

/** Checks that the device node is there and may be opened. */
export function deviceChecks(path = '/dev/kvm'): Check[] {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (stat === undefined) {
    return [
      {
        id: 'kvm.device',
        title: path,
        verdict: 'fail',
        detail: 'it is not there',
        repair: howToGetDevice(path),
      },
    ];
  }
  const group = nameOfGroup(stat.gid);
  const mode = (stat.mode & 0o777).toString(8);
  const present: Check = {
    id: 'kvm.device',
    title: path,
    verdict: stat.isCharacterDevice() ? 'ok' : 'fail',
    detail: stat.isCharacterDevice() ? 'present' : 'it is not a device',
    ...(!stat.isCharacterDevice() && { repair: `sudo mknod ${path} c 10 232` }),
  };
  const owner = `mode ${mode}, owner ${stat.uid === 0 ? 'root' : stat.uid}, group ${group}`;
  const { username, uid } = currentUser();
  const isMember = uid === 0 || (process.getgroups?.() ?? []).includes(stat.gid);
  const membership =
    uid === 0 ? 'this user is root' : `${username} is ${isMember ? '' : 'not '}in group ${group}`;
  const data = { mode, group, gid: stat.gid, user: username, uid, inGroup: isMember };
  const allowed = canOpen(path);
  const access: Check = {
    id: 'kvm.access',
    title: 'Permission',
    verdict: allowed ? 'ok' : 'fail',
    detail: `${owner}; ${membership}`,
    ...(!allowed && {
      repair: howToGetAccess(path, { group, gid: stat.gid, mode: stat.mode, username, isMember }),
    }),
    data,
  };
  return [present, access];
}

function canOpen(path: string): boolean {
  try {
    accessSync(path, constants.R_OK | constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

function howToGetDevice(path: string): string {
  if (existsSync('/.dockerenv') || existsSync('/run/.containerenv')) {
    return `This is a container: start it with --device ${path}.`;
  }
  const flags = readOr('/proc/cpuinfo');
  if (/^flags.*\bvmx\b/m.test(flags)) return 'sudo modprobe kvm_intel';
  if (/^flags.*\bsvm\b/m.test(flags)) return 'sudo modprobe kvm_amd';
  return 'Enable VT-x or AMD-V in the firmware (or nested virtualisation), then: sudo modprobe kvm_intel || sudo modprobe kvm_amd';
}

interface Access {
  group: string;
  gid: number;
  mode: number;
  username: string;
  isMember: boolean;
}

/** Exported for its tests: the command depends on what exactly is in the way. */
export function howToGetAccess(path: string, { group, gid, mode, username, isMember }: Access): string {
  const groupMayUse = (mode & 0o060) === 0o060;
  if (gid === 0) return `sudo setfacl -m u:${username}:rw ${path}`;
  if (!groupMayUse && isMember) return `sudo chmod g+rw ${path}`;
  const listed = membersOf(group).includes(username);
  if (groupMayUse && listed)
    return `${username} has joined ${group} already: log in again, or run: newgrp ${group}`;
  const join = `sudo usermod -aG ${group} ${username}, then log in again`;
  return groupMayUse ? join : `sudo chmod g+rw ${path}; ${join}`;
}

function currentUser(): { username: string; uid: number } {
  try {
    const { username, uid } = userInfo();
    return { username, uid };
  } catch {
    // A uid without an entry in /etc/passwd, as containers have them.
    const uid = process.getuid?.() ?? -1;
    return { username: String(uid), uid };
  }
}

function nameOfGroup(gid: number): string {
  return groups().find((fields) => Number(fields[2]) === gid)?.[0] ?? String(gid);
}

function membersOf(group: string): string[] {
  return groups()
    .filter(([name]) => name === group)
    .flatMap((fields) => (fields[3] ?? '').split(','));
}

/** The lines of /etc/group: name, password, gid, members (group(5)). */
function groups(): string[][] {
  return readOr('/etc/group')
    .split('\n')
    .map((line) => line.split(':'));
}

function readOr(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
