/** Names and meanings of the error numbers that the calls of this project give (x86-64 Linux). */

const ERRNO: Readonly<Record<number, readonly [name: string, meaning: string]>> = {
  1: ['EPERM', 'not permitted'],
  2: ['ENOENT', 'no such object'],
  3: ['ESRCH', 'no such process'],
  4: ['EINTR', 'interrupted'],
  5: ['EIO', 'input/output error'],
  6: ['ENXIO', 'no such device'],
  7: ['E2BIG', 'too large'],
  8: ['ENOEXEC', 'not an executable'],
  9: ['EBADF', 'bad file descriptor'],
  11: ['EAGAIN', 'try again'],
  12: ['ENOMEM', 'out of memory'],
  13: ['EACCES', 'permission denied'],
  14: ['EFAULT', 'bad address'],
  16: ['EBUSY', 'busy'],
  17: ['EEXIST', 'exists already'],
  19: ['ENODEV', 'no such device'],
  22: ['EINVAL', 'invalid argument'],
  23: ['ENFILE', 'too many open files in the system'],
  24: ['EMFILE', 'too many open files'],
  25: ['ENOTTY', 'the device does not know this request'],
  28: ['ENOSPC', 'no space left'],
  33: ['EDOM', 'out of domain'],
  34: ['ERANGE', 'out of range'],
  38: ['ENOSYS', 'not implemented by this kernel'],
  61: ['ENODATA', 'no data'],
  75: ['EOVERFLOW', 'value too large'],
  95: ['EOPNOTSUPP', 'not supported'],
  110: ['ETIMEDOUT', 'timed out'],
  111: ['ECONNREFUSED', 'connection refused'],
  524: ['ENOTSUPP', 'not supported'],
};

/** `EBUSY`, or `errno 200`. */
export function errnoName(errno: number): string {
  return ERRNO[errno]?.[0] ?? `errno ${errno}`;
}

/** `EBUSY (busy)`. */
export function errnoText(errno: number): string {
  const known = ERRNO[errno];
  return known ? `${known[0]} (${known[1]})` : `errno ${errno}`;
}
