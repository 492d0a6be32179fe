// SPDX-License-Identifier: GPL-2.0
/*
 * read(), write() and what is made of them (sendfile, splice, copy_file_range) on turtlefs files, as on tmpfs: holes read
 * as zeros and stay holes, writing gives pages frames and moves the end.
 *
 * Bytes are copied with a reference to the frame and no lock but the inode's when writing: what they are copied to or
 * from may be a mapping of the same page, whose fault takes htg_file.sem and the page's lock. A hole that comes
 * meanwhile takes the frame out of the file; the copy then was before the hole.
 */
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/pagemap.h>
#include <linux/uio.h>
#include "guest.h"

ssize_t htg_read_iter(struct kiocb *iocb, struct iov_iter *to)
{
	struct inode *inode = file_inode(iocb->ki_filp);
	struct htg_file *f = inode->i_private;
	ssize_t done = 0;

	while (iov_iter_count(to)) {
		unsigned long off = offset_in_page(iocb->ki_pos);
		loff_t size = i_size_read(inode);
		struct page *page;
		size_t n, copied;

		if (iocb->ki_pos >= size)
			break;
		n = min_t(u64, min(iov_iter_count(to), PAGE_SIZE - off), size - iocb->ki_pos);
		page = htg_page_find(f, iocb->ki_pos >> PAGE_SHIFT);
		if (page) {
			void *at = kmap_local_page(page);

			/* not copy_page_to_iter(): a pipe of 6.1 would take the page itself, and wait for a page cache's marks */
			copied = copy_to_iter(at + off, n, to);
			kunmap_local(at);
			put_page(page);
		} else {
			copied = iov_iter_zero(n, to);
		}
		iocb->ki_pos += copied;
		done += copied;
		if (copied < n) {
			if (!done)
				return -EFAULT;
			break;
		}
		if (fatal_signal_pending(current))
			break;
		cond_resched();
	}
	file_accessed(iocb->ki_filp);
	return done;
}

/*
 * Up to the end of one page. The inode is locked, as by any file system, so while the frame is charged, which may sleep and
 * meet the OOM killer of the writer's cgroup, other writers, holes and truncation of this file wait; faults do not.
 */
static ssize_t htg_write_page(struct inode *inode, loff_t pos, struct iov_iter *from)
{
	struct htg_file *f = inode->i_private;
	unsigned long off = offset_in_page(pos);
	size_t n = min(iov_iter_count(from), PAGE_SIZE - off), copied;
	loff_t had = i_size_read(inode);
	struct page *page;
	int ret;

	if (pos + n > had) {
		/* an eighth more than there is: or each granule would move all words */
		ret = htg_resize(inode, pos + n, (pos >> PAGE_SHIFT) / 8);
		if (ret)
			return ret;
	}
	page = htg_page_get(f, pos >> PAGE_SHIFT, NULL);
	if (IS_ERR(page)) {
		copied = 0;
		ret = PTR_ERR(page);
	} else {
		unlock_page(page);
		copied = copy_page_from_iter(page, off, n, from);
		put_page(page);
		ret = -EFAULT;
	}
	if (copied < n && pos + n > had)
		htg_resize(inode, copied ? max_t(loff_t, had, pos + copied) : had, 0);
	return copied ?: ret;
}

ssize_t htg_write_iter(struct kiocb *iocb, struct iov_iter *from)
{
	struct inode *inode = file_inode(iocb->ki_filp);
	ssize_t ret, done = 0;

	inode_lock(inode);
	ret = generic_write_checks(iocb, from);
	if (ret <= 0)
		goto out;
	ret = file_remove_privs(iocb->ki_filp);
	if (!ret)
		ret = file_update_time(iocb->ki_filp);
	while (!ret && iov_iter_count(from)) {
		ssize_t n = htg_write_page(inode, iocb->ki_pos, from);

		if (n < 0) {
			ret = n;
			break;
		}
		iocb->ki_pos += n;
		done += n;
		if (fatal_signal_pending(current))
			break;
		cond_resched();
	}
out:
	inode_unlock(inode);
	return done ?: ret;
}
