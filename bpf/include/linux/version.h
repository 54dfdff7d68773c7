/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What bcc's helpers.h asks of the kernel's version: nothing licet uses depends on it. */
#pragma once
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#ifndef LINUX_VERSION_CODE
#define LINUX_VERSION_CODE KERNEL_VERSION(5, 15, 0)
#endif
