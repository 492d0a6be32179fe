/** Where in the tree the page is: `#/`, `#/vm/NAME`, `#/vm/NAME/l2/PID`. */

export type Route = { at: 'host' } | { at: 'vm'; vm: string } | { at: 'l2'; vm: string; pid: number };

export function routeOf(hash: string): Route {
  const [, vm, l2, pid] = hash.replace(/^#\//, '').split('/');
  if (!hash.startsWith('#/vm/') || vm === undefined || vm === '') return { at: 'host' };
  let name: string;
  try {
    name = decodeURIComponent(vm);
  } catch {
    return { at: 'host' };
  }
  return l2 === 'l2' && /^\d+$/.test(pid ?? '')
    ? { at: 'l2', vm: name, pid: Number(pid) }
    : { at: 'vm', vm: name };
}

export function hashOf(route: Route): string {
  if (route.at === 'host') return '#/';
  const vm = `#/vm/${encodeURIComponent(route.vm)}`;
  return route.at === 'vm' ? vm : `${vm}/l2/${route.pid}`;
}
