/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Force-included by bcc before everything else. */
#pragma once
#define CONFIG_BPF_SYSCALL	 1
#define CONFIG_CC_STACKPROTECTOR 1
#define PAGE_SIZE		 4096
/* nodebug: the functions are never stepped through, and debug records take a sixth of the
 * compiler's time. */
#define __always_inline inline __attribute__((always_inline, nodebug))
#define noinline	__attribute__((noinline))
