// SPDX-License-Identifier: GPL-2.0
/*
 * Tells user space what it should act on: a VM whose RAM is a turtlefs file and that nobody has registered,
 * the coming and going of the arena. So the agent need not poll, and misses nothing: anyone who opens a watch and
 * then looks around once knows of everything.
 */
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/kfifo.h>
#include <linux/list.h>
#include <linux/pid_namespace.h>
#include <linux/poll.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/wait.h>
#include "guest.h"

#define HTG_WATCH_EVENTS 256

struct htg_watch {
	struct list_head node;
	struct pid_namespace *ns;
	wait_queue_head_t wait;
	spinlock_t lock;	/* fifo, seq, lost */
	u64 seq;
	bool lost;
	DECLARE_KFIFO(fifo, struct htg_vm_event, HTG_WATCH_EVENTS);
};

static LIST_HEAD(htg_watches);
static DEFINE_MUTEX(htg_watches_lock);	/* taken last */

void htg_watch_note(u32 kind, struct pid *tgid)
{
	struct htg_watch *w;

	mutex_lock(&htg_watches_lock);
	list_for_each_entry(w, &htg_watches, node) {
		struct htg_vm_event e = { .kind = kind, .pid = tgid ? pid_nr_ns(tgid, w->ns) : 0 };

		if (tgid && !e.pid)
			continue; /* not to be seen from there */
		spin_lock(&w->lock);
		e.seq = ++w->seq;
		if (!kfifo_put(&w->fifo, e))
			w->lost = true;
		spin_unlock(&w->lock);
		wake_up_interruptible(&w->wait);
	}
	mutex_unlock(&htg_watches_lock);
}

static bool htg_watch_next(struct htg_watch *w, struct htg_vm_event *e)
{
	bool some = true;

	spin_lock(&w->lock);
	if (!kfifo_get(&w->fifo, e)) {
		some = w->lost;
		*e = (struct htg_vm_event){ .kind = HTG_EVENT_LOST, .seq = w->seq };
		w->lost = false;
	}
	spin_unlock(&w->lock);
	return some;
}

static bool htg_watch_has(struct htg_watch *w)
{
	bool some;

	spin_lock(&w->lock);
	some = !kfifo_is_empty(&w->fifo) || w->lost;
	spin_unlock(&w->lock);
	return some;
}

static ssize_t htg_watch_read(struct file *file, char __user *to, size_t bytes, loff_t *pos)
{
	struct htg_watch *w = file->private_data;
	struct htg_vm_event e;
	size_t done = 0;
	int ret;

	if (bytes < sizeof(e))
		return -EINVAL;
	while (!htg_watch_has(w)) {
		if (file->f_flags & O_NONBLOCK)
			return -EAGAIN;
		ret = wait_event_interruptible(w->wait, htg_watch_has(w));
		if (ret)
			return ret;
	}
	while (bytes - done >= sizeof(e) && htg_watch_next(w, &e)) {
		if (copy_to_user(to + done, &e, sizeof(e)))
			return -EFAULT;
		done += sizeof(e);
	}
	return done ?: -EAGAIN;
}

static __poll_t htg_watch_poll(struct file *file, struct poll_table_struct *wait)
{
	struct htg_watch *w = file->private_data;

	poll_wait(file, &w->wait, wait);
	return htg_watch_has(w) ? EPOLLIN | EPOLLRDNORM : 0;
}

static int htg_watch_release(struct inode *inode, struct file *file)
{
	struct htg_watch *w = file->private_data;

	mutex_lock(&htg_watches_lock);
	list_del(&w->node);
	mutex_unlock(&htg_watches_lock);
	put_pid_ns(w->ns);
	kfree(w);
	return 0;
}

static const struct file_operations htg_watch_fops = {
	.owner = THIS_MODULE,
	.release = htg_watch_release,
	.read = htg_watch_read,
	.poll = htg_watch_poll,
	.llseek = noop_llseek,
};

int htg_watch_open(void)
{
	struct htg_watch *w = kzalloc(sizeof(*w), GFP_KERNEL);
	int fd;

	if (!w)
		return -ENOMEM;
	INIT_KFIFO(w->fifo);
	init_waitqueue_head(&w->wait);
	spin_lock_init(&w->lock);
	w->ns = get_pid_ns(task_active_pid_ns(current));
	mutex_lock(&htg_watches_lock);
	fd = anon_inode_getfd("hyperturtle-watch", &htg_watch_fops, w, O_RDONLY | O_CLOEXEC);
	if (fd >= 0)
		list_add(&w->node, &htg_watches);
	mutex_unlock(&htg_watches_lock);
	if (fd < 0) {
		put_pid_ns(w->ns);
		kfree(w);
	}
	return fd;
}
