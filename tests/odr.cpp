// SPDX-License-Identifier: Apache-2.0
// Linked with one unit for each header: a function or variable defined twice stops the link.
int main() {}
