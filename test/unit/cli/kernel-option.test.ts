import { expect, it } from 'vitest';
import { kernelList } from '../../../src/cli/shared/kernel-option.ts';

it('a list of kernels is one of series, and nothing else reaches a document', () => {
  expect(kernelList('6.1')).toEqual(['6.1']);
  expect(kernelList('6.1,6.12-debug,7.3')).toEqual(['6.1', '6.12-debug', '7.3']);
  for (const bad of ['', '6.1,', '6.1x', '6.1, 7.3', '../..'])
    expect(() => kernelList(bad), bad).toThrow(/expected a series such as 6.1/);
});
