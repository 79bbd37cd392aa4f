/* The least that a pool of block ids can be in C: a stack of free slots and an owner for each.
 *
 * take(n, owner) hands out a list of n ids, give(ids) takes it back. It checks that there are enough,
 * that each id is in range and that each is owned; it counts no bytes, knows no groups, no generations
 * and no lock, and a refused give() has freed what came before the fault.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define BASE (1ULL << 42) /* as wide as a pool's ids: three digits of a PyLong */

typedef struct {
    PyObject_HEAD
    Py_ssize_t n_slots, n_free;
    uint32_t *stack;
    PyObject **owners;
} Slots;

static PyObject *slots_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    Py_ssize_t n;
    if (!PyArg_ParseTuple(args, "n", &n)) return NULL;
    Slots *self = (Slots *)type->tp_alloc(type, 0);
    if (self == NULL) return NULL;
    self->n_slots = self->n_free = n;
    self->stack = PyMem_Malloc(n * sizeof *self->stack);
    self->owners = PyMem_Calloc(n, sizeof *self->owners);
    if (self->stack == NULL || self->owners == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    for (Py_ssize_t i = 0; i < n; i++) self->stack[i] = (uint32_t)(n - 1 - i);
    return (PyObject *)self;
}

static void slots_dealloc(Slots *self) {
    for (Py_ssize_t i = 0; self->owners != NULL && i < self->n_slots; i++) Py_XDECREF(self->owners[i]);
    PyMem_Free(self->stack);
    PyMem_Free(self->owners);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *take(Slots *self, PyObject *const *args, Py_ssize_t n_args) {
    if (n_args != 2 || !PyUnicode_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "take(n, owner)");
        return NULL;
    }
    Py_ssize_t n = PyLong_AsSsize_t(args[0]);
    if (n < 0 || n > self->n_free) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_MemoryError, "too few slots");
        return NULL;
    }
    PyObject *list = PyList_New(n);
    if (list == NULL) return NULL;
    for (Py_ssize_t i = 0; i < n; i++) {
        uint32_t slot = self->stack[--self->n_free];
        self->owners[slot] = Py_NewRef(args[1]);
        PyObject *id = PyLong_FromUnsignedLongLong(BASE * 1048576 | BASE | slot);
        if (id == NULL) {
            Py_DECREF(list);
            return NULL;
        }
        PyList_SET_ITEM(list, i, id);
    }
    return list;
}

static PyObject *give(Slots *self, PyObject *list) {
    if (!PyList_Check(list)) {
        PyErr_SetString(PyExc_TypeError, "give(ids)");
        return NULL;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
        unsigned long long id = PyLong_AsUnsignedLongLong(PyList_GET_ITEM(list, i));
        if (id == (unsigned long long)-1 && PyErr_Occurred()) return NULL;
        unsigned long long slot = id - (BASE * 1048576 | BASE);
        if (slot >= (unsigned long long)self->n_slots || self->owners[slot] == NULL) {
            PyErr_SetString(PyExc_ValueError, "not owned");
            return NULL;
        }
        Py_CLEAR(self->owners[slot]);
        self->stack[self->n_free++] = (uint32_t)slot;
    }
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"take", (PyCFunction)(void (*)(void))take, METH_FASTCALL, NULL},
    {"give", (PyCFunction)give, METH_O, NULL},
    {NULL},
};

static PyTypeObject slots_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "baseline.Slots",
    .tp_basicsize = sizeof(Slots),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = slots_new,
    .tp_dealloc = (destructor)slots_dealloc,
    .tp_methods = methods,
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "baseline", NULL, -1, NULL};

PyMODINIT_FUNC PyInit_baseline(void) {
    PyObject *made = PyModule_Create(&module);
    if (made == NULL || PyModule_AddType(made, &slots_type) < 0) return NULL;
    return made;
}
