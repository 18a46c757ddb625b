/* The program of a static executable: an interpreter whose modules are all inside it.
 *
 * tables.h, made by the recipe, has LINKED(name, function) for each extension module and
 * FROZEN(name, first, size, is_package) for each Python module, whose marshalled code stands in
 * frozen_code; ENTRY is the module that runs.
 */
#include <Python.h>
#include <netdb.h>
#include <nss.h>

extern const unsigned char frozen_code[];

#define LINKED(name, function) PyMODINIT_FUNC function(void);
#define FROZEN(name, first, size, is_package)
#include "tables.h"
#undef LINKED
#undef FROZEN

static struct _inittab linked[] = {
#define LINKED(name, function) {name, function},
#define FROZEN(name, first, size, is_package)
#include "tables.h"
#undef LINKED
#undef FROZEN
    {NULL, NULL}
};

static const struct _frozen frozen[] = {
#define LINKED(name, function)
#define FROZEN(name, first, size, is_package) {name, frozen_code + first, size, is_package, NULL},
#include "tables.h"
    {NULL, NULL, 0, 0, NULL}
};

int __real_getaddrinfo(const char *, const char *, const struct addrinfo *, struct addrinfo **);

/* What the linker gives callers in place of getaddrinfo(3) (--wrap).  The two services are in the C
 * library; any other that nsswitch.conf names would load the host's libraries. */
int __wrap_getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                       struct addrinfo **found)
{
    if (__nss_configure_lookup("hosts", "files dns") != 0)
        return EAI_SYSTEM;
    return __real_getaddrinfo(node, service, hints, found);
}

#define NOWHERE L"/nowhere"

static PyStatus initialize(int argc, char **argv)
{
    PyPreConfig before;
    PyPreConfig_InitIsolatedConfig(&before);
    /* File names are bytes of any encoding, as they are for a C locale. */
    before.utf8_mode = 1;
    PyStatus status = Py_PreInitialize(&before);
    if (PyStatus_Exception(status))
        return status;

    /* With a path of modules and an absolute name, the interpreter does not look for its
     * installation in the file system.  imports.py empties the path. */
    Py_SetPath(NOWHERE);
    PyConfig config;
    PyConfig_InitIsolatedConfig(&config);
    config.site_import = 0;
    config.install_signal_handlers = 1;
    config.write_bytecode = 0;
    config.use_frozen_modules = 1;
    status = PyConfig_SetString(&config, &config.program_name, NOWHERE);
    if (!PyStatus_Exception(status))
        status = PyConfig_SetBytesArgv(&config, argc, argv);
    if (!PyStatus_Exception(status))
        status = Py_InitializeFromConfig(&config);
    PyConfig_Clear(&config);
    return status;
}

int main(int argc, char **argv)
{
    PyImport_FrozenModules = frozen;
    if (PyImport_ExtendInittab(linked) < 0)
        return 1;
    PyStatus status = initialize(argc, argv);
    if (PyStatus_Exception(status))
        Py_ExitStatusException(status);
    PyObject *module = PyImport_ImportModule("_imports_of_this_file");
    if (module != NULL)
        module = PyImport_ImportModule(ENTRY);
    if (module == NULL)
        PyErr_Print();  /* Exits, with the status of a SystemExit. */
    return Py_FinalizeEx() < 0 || module == NULL;
}
