/* Judges refimpl_kernel on the cases whose folders are given: cc -std=c99 check.c my_kernel.c -lm && ./a.out FOLDER ...
   Exit status: 0 all outputs that it makes are right, 1 one is not, 2 a case cannot be read or nothing was judged. */
#include "refimpl_vectors.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void stop(const char *what, const char *name) { fprintf(stderr, "%s %s\n", what, name); exit(2); }

static const refimpl_tensor *find(const refimpl_case *c, const char *name) {
    for (int i = 0; i < c->tensors; i++)
        if (!strcmp(c->tensor[i].name, name)) return &c->tensor[i];
    stop("the case has no array", name);
    return NULL;
}

const void *refimpl_get(const refimpl_case *c, const char *name) { return c->data + find(c, name)->offset; }

static size_t size_of(const char *dtype) { return (size_t)atoi(dtype + 1) / 8; }

static void read_case(const char *folder, refimpl_case *c) {
    char path[4096], word[32], kind[32];
    size_t version = 0, length, end = 0;
    snprintf(path, sizeof path, "%s/index.txt", folder);
    FILE *f = fopen(path, "r");
    if (!f || fscanf(f, "refimpl-vectors %zu kernel %63s", &version, c->kernel) != 2 || version != REFIMPL_VECTORS_VERSION)
        stop("no index of this version:", path);
    while (fscanf(f, "%31s", word) == 1) {
        if (!strcmp(word, "dim") && fscanf(f, " %1s %zu", kind, &length) == 2) c->dims[kind[0] & 127] = length;
        else if (!strcmp(word, "tensor") && c->tensors < 24) {
            refimpl_tensor *t = &c->tensor[c->tensors++];
            if (fscanf(f, "%31s %7s %zu %zu", t->name, t->dtype, &t->offset, &t->rank) != 4 || t->rank > 4) stop("damaged:", path);
            t->count = 1;
            for (size_t i = 0; i < t->rank; t->count *= t->shape[i++])
                if (fscanf(f, "%zu", &t->shape[i]) != 1) stop("damaged:", path);
            if (t->offset + t->count * size_of(t->dtype) > end) end = t->offset + t->count * size_of(t->dtype);
        } else if (!strcmp(word, "expect") && c->outputs < 4 && fscanf(f, "%31s %31s", c->output[c->outputs].name, kind) == 2)
            c->output[c->outputs++].within = !strcmp(kind, "within");
        else stop("damaged:", path);
    }
    fclose(f);
    snprintf(path, sizeof path, "%s/data.bin", folder);
    unsigned char *raw = malloc(end + 64);
    if (!(f = fopen(path, "rb")) || !raw) stop("cannot read", path);
    c->data = raw + (64 - (uintptr_t)raw % 64) % 64;
    if (fread(c->data, 1, end, f) != end) stop("too short:", path);
    fclose(f);
}

/* How many elements of out are wrong; first is the index of the first of them. */
static size_t judge(const refimpl_case *c, const char *name, int within, const unsigned char *out, size_t *first) {
    const refimpl_tensor *t = find(c, name);
    const unsigned char *want = c->data + t->offset;
    char bound_name[40];
    snprintf(bound_name, sizeof bound_name, "%s.bound", name);
    const double *bound = within ? refimpl_get(c, bound_name) : NULL;
    size_t wrong = 0, size = size_of(t->dtype);
    for (size_t i = t->count; i-- > 0;) {
        int good = within ? fabs(((const float *)out)[i] - ((const double *)want)[i]) <= bound[i]
                          : !memcmp(out + i * size, want + i * size, size);
        if (!good) wrong++, *first = i;
    }
    return wrong;
}

int main(int argc, char **argv) {
    int judged = 0, failed = 0;
    for (int i = 1; i < argc; i++) {
        refimpl_case c = {.data = NULL};
        read_case(argv[i], &c);
        for (int o = 0; o < c.outputs; o++) {
            const char *name = c.output[o].name;
            const refimpl_tensor *t = find(&c, name);
            size_t first = 0, size = t->count * size_of(t->dtype);
            unsigned char *out = malloc(size + 64);
            memset(out, 0xA5, size + 64);
            if (refimpl_kernel(&c, name, out)) printf("skip  %s %s\n", argv[i], name);
            else {
                size_t wrong = judge(&c, name, c.output[o].within, out, &first);
                judged++, failed += wrong > 0;
                if (wrong) printf("FAIL  %s %s: %zu of %zu wrong, the first at [%zu]\n", argv[i], name, wrong, t->count, first);
                else printf("pass  %s %s: %zu %s\n", argv[i], name, t->count, c.output[o].within ? "within bounds" : "equal");
            }
            free(out);
        }
    }
    printf("%d outputs judged, %d wrong\n", judged, failed);
    return failed ? 1 : judged ? 0 : 2;
}
