/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Included by bcc's own headers; licet needs nothing of it beyond the types. */
#pragma once
#include <linux/types.h>
