"""Mistakes on the command line and the exact line that each is answered with.

The first item says whether ``-kernel k`` comes before the words.
"""

# ruff: noqa: E501

MISTAKES: dict[str, list[tuple[bool, list[str], str]]] = {
    "machine": [
        (True, ["-machine", ""], "-machine '': is empty; write key=value,key=value"),
        (
            True,
            ["-machine", "pc"],
            "-machine pc: type must be microvm, none, q35 or virt, not 'pc'",
        ),
        (
            True,
            ["-machine", "type="],
            "-machine type=: type must be microvm, none, q35 or virt, not ''",
        ),
        (
            True,
            ["-machine", "microvm,type=microvm"],
            "-machine microvm,type=microvm: type is given twice",
        ),
        (
            True,
            ["-machine", "microvm,color=red"],
            "-machine microvm,color=red: unknown property 'color'; known are type, dump-guest-core, mem-share, accel, hot-replace or usb",
        ),
        (
            True,
            ["-machine", "microvm,usb=on"],
            "-machine microvm,usb=on: usb must be off, not 'on'",
        ),
        (True, ["-machine", "microvm,usb="], "-machine microvm,usb=: usb must be off, not ''"),
        (
            True,
            ["-machine", "microvm,mem-share=maybe"],
            "-machine microvm,mem-share=maybe: mem-share must be on or off, not 'maybe'",
        ),
        (
            True,
            ["-machine", "microvm,mem-share=1"],
            "-machine microvm,mem-share=1: mem-share must be on or off, not '1'",
        ),
        (
            True,
            ["-machine", "microvm,dump-guest-core="],
            "-machine microvm,dump-guest-core=: dump-guest-core must be on or off, not ''",
        ),
        (
            True,
            ["-machine", "microvm,accel=xen"],
            "-machine microvm,accel=xen: accel must be kvm or test, not 'xen'",
        ),
        (
            True,
            ["-machine", "microvm,accel=kvm,accel=kvm"],
            "-machine microvm,accel=kvm,accel=kvm: accel is given twice",
        ),
        (
            True,
            ["-machine", ","],
            "-machine ,: empty property; write key=value,key=value",
        ),
        (
            True,
            ["-machine", ",microvm"],
            "-machine ,microvm: empty property; write key=value,key=value",
        ),
        (
            True,
            ["-machine", "microvm,=on"],
            "-machine microvm,=on: empty property; write key=value,key=value",
        ),
        (
            True,
            ["-machine", "dump-guest-core=on,microvm"],
            "-machine dump-guest-core=on,microvm: 'microvm' needs a value or is unknown; known are type, dump-guest-core, mem-share, accel, hot-replace or usb",
        ),
        (True, ["-machine", "microvm", "-machine", "microvm"], "-machine microvm: given twice"),
        (
            False,
            ["-machine", "q35"],
            "-machine q35: nothing to boot; give -kernel PATH or firmware by -drive if=pflash,unit=0,file=PATH",
        ),
        (
            True,
            ["-machine", "q35", "-device", "virtio-balloon-device,id=b"],
            "-device virtio-balloon-device,id=b: q35 has no virtio-mmio slots; use virtio-balloon-pci",
        ),
        (
            True,
            ["-uuid", "12345678-9abc-def0-1234"],
            "-uuid 12345678-9abc-def0-1234: uuid must be a UUID such as 12345678-9abc-def0-1234-56789abcdef0, not '12345678-9abc-def0-1234'",
        ),
        (
            True,
            ["-uuid", "g2345678-9abc-def0-1234-56789abcdef0"],
            "-uuid g2345678-9abc-def0-1234-56789abcdef0: uuid must be a UUID such as 12345678-9abc-def0-1234-56789abcdef0, not 'g2345678-9abc-def0-1234-56789abcdef0'",
        ),
        (
            True,
            ["-machine", "virt"],
            "-machine virt: this version has the boards microvm and q35; virt is not built yet",
        ),
        (
            True,
            ["-machine", "microvm,accel=kvm", "-accel", "test"],
            "-accel test: -machine says accel=kvm",
        ),
        (True, ["-accel", ""], "-accel '': is empty; write key=value,key=value"),
        (True, ["-accel", "xen"], "-accel xen: accel must be kvm or test, not 'xen'"),
        (True, ["-accel", "kvm", "-accel", "kvm"], "-accel kvm: given twice"),
        (
            True,
            ["-accel", "test"],
            "-accel test: needs -mod-test PATH, the socket of the test client",
        ),
        (True, ["-accel", "kvm,accel=kvm"], "-accel kvm,accel=kvm: accel is given twice"),
        (True, ["-accel", "speed=1"], "-accel speed=1: unknown property 'speed'; known are accel"),
        (True, ["-cpu", ""], "-cpu '': model must be a CPU model such as host, not ''"),
        (True, ["-cpu", "host", "-cpu", "host"], "-cpu host: given twice"),
        (True, ["-cpu"], "-cpu: needs a value"),
    ],
    "smp": [
        (True, ["-smp", ""], "-smp '': is empty; write key=value,key=value"),
        (True, ["-smp", "0"], "-smp 0: cpus must be a number from 1 to 254, not '0'"),
        (True, ["-smp", "255"], "-smp 255: cpus must be a number from 1 to 254, not '255'"),
        (True, ["-smp", "-1"], "-smp -1: cpus must be a number from 1 to 254, not '-1'"),
        (True, ["-smp", "2.5"], "-smp 2.5: cpus must be a number from 1 to 254, not '2.5'"),
        (True, ["-smp", "two"], "-smp two: cpus must be a number from 1 to 254, not 'two'"),
        (True, ["-smp", "0x"], "-smp 0x: cpus must be a number from 1 to 254, not '0x'"),
        (True, ["-smp", "1_0"], "-smp 1_0: cpus must be a number from 1 to 254, not '1_0'"),
        (True, ["-smp", "2,cpus=2"], "-smp 2,cpus=2: cpus is given twice"),
        (True, ["-smp", "cpus="], "-smp cpus=: cpus must be a number from 1 to 254, not ''"),
        (
            True,
            ["-smp", "2,sockets=0"],
            "-smp 2,sockets=0: sockets must be a number from 1 to 254, not '0'",
        ),
        (
            True,
            ["-smp", "2,sockets=255"],
            "-smp 2,sockets=255: sockets must be a number from 1 to 254, not '255'",
        ),
        (True, ["-smp", "2,cores="], "-smp 2,cores=: cores must be a number from 1 to 254, not ''"),
        (
            True,
            ["-smp", "2,threads=x"],
            "-smp 2,threads=x: threads must be a number from 1 to 254, not 'x'",
        ),
        (True, ["-smp", "2,dies=0"], "-smp 2,dies=0: dies must be a number from 1 to 254, not '0'"),
        (
            True,
            ["-smp", "2,clusters=0"],
            "-smp 2,clusters=0: clusters must be a number from 1 to 254, not '0'",
        ),
        (
            True,
            ["-smp", "2,books=1"],
            "-smp 2,books=1: unknown property 'books'; known are cpus, maxcpus, sockets, dies, clusters, cores or threads",
        ),
        (
            True,
            ["-smp", "4,cores=3"],
            "-smp 4,cores=3: sockets * dies * clusters * cores * threads is 3 but must equal maxcpus (4)",
        ),
        (True, ["-smp", "4,maxcpus=2"], "-smp 4,maxcpus=2: maxcpus (2) must be at least cpus (4)"),
        (True, ["-smp", "2", "-smp", "2"], "-smp 2: given twice"),
        (
            True,
            ["-smp", "8,sockets=2,cores=2,threads=3"],
            "-smp 8,sockets=2,cores=2,threads=3: sockets * dies * clusters * cores * threads is 12 but must equal maxcpus (8)",
        ),
        (
            True,
            ["-smp", "2,2"],
            "-smp 2,2: '2' needs a value or is unknown; known are cpus, maxcpus, sockets, dies, clusters, cores or threads",
        ),
        (True, ["-smp"], "-smp: needs a value"),
    ],
    "memory": [
        (True, ["-m", ""], "-m '': is empty; write key=value,key=value"),
        (True, ["-m", "0"], "-m 0: size must be a size from 256M to 512G, not '0'"),
        (True, ["-m", "255"], "-m 255: size must be a size from 256M to 512G, not '255'"),
        (True, ["-m", "255M"], "-m 255M: size must be a size from 256M to 512G, not '255M'"),
        (True, ["-m", "513G"], "-m 513G: size must be a size from 256M to 512G, not '513G'"),
        (True, ["-m", "-1"], "-m -1: size must be a size from 256M to 512G, not '-1'"),
        (True, ["-m", "1X"], "-m 1X: size must be a size from 256M to 512G, not '1X'"),
        (True, ["-m", "1.5G"], "-m 1.5G: size must be a size from 256M to 512G, not '1.5G'"),
        (True, ["-m", "G"], "-m G: size must be a size from 256M to 512G, not 'G'"),
        (True, ["-m", "size="], "-m size=: size must be a size from 256M to 512G, not ''"),
        (True, ["-m", "1G,size=1G"], "-m 1G,size=1G: size is given twice"),
        (True, ["-m", "1G,slots=2"], "-m 1G,slots=2: unknown property 'slots'; known are size"),
        (True, ["-m", "1G", "-m", "1G"], "-m 1G: given twice"),
        (True, ["-m", "0x"], "-m 0x: size must be a size from 256M to 512G, not '0x'"),
        (
            True,
            ["-m", "9" * 41],
            "-m " + "9" * 41 + ": size must be a size from 256M to 512G, not '" + "9" * 41 + "'",
        ),
        (True, ["-mem-path", ""], "-mem-path '': path must be an absolute path, not ''"),
        (
            True,
            ["-mem-path", "relative"],
            "-mem-path relative: path must be an absolute path, not 'relative'",
        ),
        (
            True,
            ["-mem-path", "/" + "x" * 5000],
            "-mem-path /"
            + "x" * 159
            + "...: path must be at most 4095 characters, not '/"
            + "x" * 159
            + "...'",
        ),
        (True, ["-mem-path", "/a", "-mem-path", "/b"], "-mem-path /b: given twice"),
        (True, ["-mem-prealloc", "-mem-prealloc"], "-mem-prealloc: given twice"),
    ],
    "numa": [
        (True, ["-numa", ""], "-numa '': is empty; write key=value,key=value"),
        (True, ["-numa", "cpu"], "-numa cpu: unknown kind 'cpu'; known are node or dist"),
        (
            True,
            ["-numa", "node"],
            "-numa node: memdev is missing; it must be a name of letters, digits, '-', '.' and '_' that starts with a letter",
        ),
        (
            True,
            ["-numa", "node,cpus=0,memdev="],
            "-numa node,cpus=0,memdev=: memdev must be a name of letters, digits, '-', '.' and '_' that starts with a letter, not ''",
        ),
        (
            True,
            ["-numa", "node,cpus=,memdev=m"],
            "-numa node,cpus=,memdev=m: cpus must be numbers and ranges from 0 to 253 such as 0-1:4, not ''",
        ),
        (
            True,
            ["-numa", "node,cpus=1-0,memdev=m"],
            "-numa node,cpus=1-0,memdev=m: cpus must be numbers and ranges from 0 to 253 such as 0-1:4, not '1-0'",
        ),
        (
            True,
            ["-numa", "node,cpus=0:0,memdev=m"],
            "-numa node,cpus=0:0,memdev=m: cpus must be numbers that are named once each, not '0:0'",
        ),
        (
            True,
            ["-numa", "node,cpus=a,memdev=m"],
            "-numa node,cpus=a,memdev=m: cpus must be numbers and ranges from 0 to 253 such as 0-1:4, not 'a'",
        ),
        (
            True,
            ["-numa", "node,cpus=0,memdev=nobody"],
            "-numa node,memdev=nobody: no -object memory-backend has this id",
        ),
        (
            True,
            ["-numa", "node,nodeid=128,memdev=m"],
            "-numa node,nodeid=128,memdev=m: nodeid must be a number from 0 to 127, not '128'",
        ),
        (
            True,
            ["-numa", "node,nodeid=0,nodeid=1,memdev=m"],
            "-numa node,nodeid=0,nodeid=1,memdev=m: nodeid is given twice",
        ),
        (
            True,
            ["-numa", "node,color=1,memdev=m"],
            "-numa node,color=1,memdev=m: unknown property 'color'; known are nodeid, cpus or memdev",
        ),
        (
            True,
            ["-numa", "dist,src=0,dst=1"],
            "-numa dist,src=0,dst=1: val is missing; it must be a number from 10 to 255",
        ),
        (
            True,
            ["-numa", "dist,src=0,dst=0,val=20"],
            "-numa dist,src=0,dst=0,val=20: val is 10 from a node to itself and more to another",
        ),
        (
            True,
            ["-numa", "dist,src=0,dst=1,val=10"],
            "-numa dist,src=0,dst=1,val=10: val is 10 from a node to itself and more to another",
        ),
        (
            True,
            ["-numa", "dist,src=0,dst=1,val=9"],
            "-numa dist,src=0,dst=1,val=9: val must be a number from 10 to 255, not '9'",
        ),
        (
            True,
            ["-numa", "dist,src=0,dst=1,val=256"],
            "-numa dist,src=0,dst=1,val=256: val must be a number from 10 to 255, not '256'",
        ),
        (True, ["-numa", "dist,src=0,dst=1,val=20"], "-numa dist,src=0,dst=1: there is no node 0"),
        (
            True,
            ["-object", "memory-backend-ram,id=m,size=256M", "-numa", "node,cpus=1,memdev=m"],
            "-numa node,nodeid=0: cpu 1 is more than -smp has, 1 from 0",
        ),
        (
            True,
            ["-object", "memory-backend-ram,id=m,size=256M", "-numa", "node,memdev=m"],
            "-numa node: cpu 0 of -smp is in no node",
        ),
        (
            True,
            ["-object", "memory-backend-ram,id=m,size=128M", "-numa", "node,cpus=0,memdev=m"],
            "-numa node: the nodes have 128M but -m is 256M",
        ),
        (
            True,
            [
                "-object",
                "memory-backend-ram,id=m,size=256M",
                "-numa",
                "node,nodeid=1,cpus=0,memdev=m",
            ],
            "-numa node: the nodes are [1] but must be numbered from 0 on",
        ),
        (
            True,
            [
                "-object",
                "memory-backend-ram,id=m,size=256M",
                "-numa",
                "node,nodeid=0,cpus=0,memdev=m",
                "-numa",
                "node,nodeid=0,memdev=m",
            ],
            "-numa node,memdev=m: -numa node,memdev=m uses it already",
        ),
        (
            True,
            [
                "-object",
                "memory-backend-ram,id=m,size=256M",
                "-numa",
                "node,cpus=0,memdev=m",
                "-numa",
                "dist,src=0,dst=3,val=20",
            ],
            "-numa dist,src=0,dst=3: there is no node 3",
        ),
        (
            True,
            [
                "-mem-path",
                "/x",
                "-object",
                "memory-backend-ram,id=m,size=256M",
                "-numa",
                "node,cpus=0,memdev=m",
            ],
            "-mem-path /x: the memory of -numa node is that of its memdev; use -object memory-backend-file",
        ),
        (
            True,
            [
                "-smp",
                "2",
                "-object",
                "memory-backend-ram,id=m,size=128M",
                "-object",
                "memory-backend-ram,id=n,size=128M",
                "-numa",
                "node,cpus=0,memdev=m",
                "-numa",
                "node,cpus=0-1,memdev=n",
            ],
            "-numa node,nodeid=1: cpu 0 is in node 0",
        ),
    ],
    "object": [
        (True, ["-object", ""], "-object '': is empty; write key=value,key=value"),
        (
            True,
            ["-object", "tree,id=a"],
            "-object tree,id=a: unknown object 'tree'; known are iothread, memory-backend-ram, memory-backend-file, memory-backend-memfd or rng-random",
        ),
        (
            True,
            ["-object", "iothread"],
            "-object iothread: id is missing; it must be a name of letters, digits, '-', '.' and '_' that starts with a letter",
        ),
        (
            True,
            ["-object", "iothread,id="],
            "-object iothread,id=: id must be a name of letters, digits, '-', '.' and '_' that starts with a letter, not ''",
        ),
        (
            True,
            ["-object", "iothread,id=1"],
            "-object iothread,id=1: id must be a name of letters, digits, '-', '.' and '_' that starts with a letter, not '1'",
        ),
        (
            True,
            ["-object", "iothread,id=a,poll=1"],
            "-object iothread,id=a,poll=1: unknown property 'poll'; known are id",
        ),
        (
            True,
            ["-object", "iothread,id=a", "-object", "iothread,id=a"],
            "-object iothread,id=a: another object has the id a",
        ),
        (
            True,
            ["-object", "memory-backend-ram,id=m"],
            "-object memory-backend-ram,id=m: size is missing; it must be a size from 1M to 512G",
        ),
        (
            True,
            ["-object", "memory-backend-ram,id=m,size=0"],
            "-object memory-backend-ram,id=m,size=0: size must be a size from 1M to 512G, not '0'",
        ),
        (
            True,
            ["-object", "memory-backend-ram,id=m,size=1G,policy=bind"],
            "-object memory-backend-ram,id=m,size=1G,policy=bind: policy (but default) and host-nodes go together",
        ),
        (
            True,
            ["-object", "memory-backend-ram,id=m,size=1G,host-nodes=0"],
            "-object memory-backend-ram,id=m,size=1G,host-nodes=0: policy (but default) and host-nodes go together",
        ),
        (
            True,
            ["-object", "memory-backend-ram,id=m,size=1G,policy=best"],
            "-object memory-backend-ram,id=m,size=1G,policy=best: policy must be default, preferred, bind or interleave, not 'best'",
        ),
        (
            True,
            ["-object", "memory-backend-ram,id=m,size=1G,host-nodes=0-9999,policy=bind"],
            "-object memory-backend-ram,id=m,size=1G,host-nodes=0-9999,policy=bind: host-nodes must be numbers and ranges from 0 to 1023 such as 0-1:4, not '0-9999'",
        ),
        (
            True,
            ["-object", "memory-backend-ram,id=m,size=1G"],
            "-object memory-backend-ram,id=m: no -numa node uses it",
        ),
        (
            True,
            ["-object", "memory-backend-file,id=m,size=1G"],
            "-object memory-backend-file,id=m,size=1G: mem-path is missing; it must be a path",
        ),
        (
            True,
            ["-object", "memory-backend-memfd,id=m,size=1G,hugetlb=2"],
            "-object memory-backend-memfd,id=m,size=1G,hugetlb=2: hugetlb must be on or off, not '2'",
        ),
        (True, ["-object", "rng-random,id=r"], "-object rng-random,id=r: no -device uses it"),
        (True, ["-object", "iothread,id=i"], "-object iothread,id=i: no -device uses it"),
        (
            True,
            ["-object", "rng-random,id=r,filename="],
            "-object rng-random,id=r,filename=: filename must be a path, not ''",
        ),
        (
            True,
            ["-object", "id=a,iothread"],
            "-object id=a,iothread: the object comes first, then id=...",
        ),
    ],
    "kernel": [
        (False, ["-kernel", ""], "-kernel '': path must be a path, not ''"),
        (False, ["-kernel", "k", "-kernel", "k2"], "-kernel k2: given twice"),
        (
            False,
            ["-kernel", "x" * 5000],
            "-kernel "
            + "x" * 160
            + "...: path must be at most 4095 characters, not '"
            + "x" * 160
            + "...'",
        ),
        (True, ["-initrd", ""], "-initrd '': path must be a path, not ''"),
        (True, ["-initrd", "i", "-initrd", "i"], "-initrd i: given twice"),
        (False, ["-initrd", "i"], "-initrd i: needs -kernel PATH"),
        (False, ["-append", "a"], "-append a: needs -kernel PATH"),
        (True, ["-append", "a", "-append", "b"], "-append b: given twice"),
        (
            True,
            ["-append", "y" * 70000],
            "-append "
            + "y" * 160
            + "...: text must be at most 65535 bytes, not '"
            + "y" * 160
            + "...'",
        ),
        (True, ["-append"], "-append: needs a value"),
        (False, [], "-kernel is missing: microvm boots a kernel given by -kernel PATH"),
        (True, ["-global", ""], "-global '': is empty; write key=value,key=value"),
        (
            True,
            ["-global", "pcie-root-port.fast-unplug=2"],
            "-global pcie-root-port.fast-unplug=2: pcie-root-port.fast-unplug must be 1, 0, on or off, not '2'",
        ),
        (
            True,
            ["-global", "pcie-root-port.fast-unplug="],
            "-global pcie-root-port.fast-unplug=: pcie-root-port.fast-unplug must be 1, 0, on or off, not ''",
        ),
        (
            True,
            ["-global", "pcie-root-port.color=1"],
            "-global pcie-root-port.color=1: unknown property 'pcie-root-port.color'; known are pcie-root-port.fast-unplug",
        ),
        (
            True,
            ["-global", "pcie-root-port.fast-unplug=1"],
            "-global pcie-root-port.fast-unplug: microvm has no PCI bus",
        ),
        (True, ["-incoming", ""], "-incoming '': uri must be file:PATH, not ''"),
        (True, ["-incoming", "tcp:1"], "-incoming tcp:1: must be file:PATH, not 'tcp:1'"),
        (True, ["-incoming", "file:"], "-incoming file:: must be file:PATH, not 'file:'"),
        (True, ["-incoming", "file:/x", "-incoming", "file:/x"], "-incoming file:/x: given twice"),
    ],
    "drive": [
        (True, ["-drive", ""], "-drive '': is empty; write key=value,key=value"),
        (True, ["-drive", "id=a"], "-drive id=a: file is missing; it must be a path"),
        (
            True,
            ["-drive", "file=x"],
            "-drive file=x: id is missing; it must be a name of letters, digits, '-', '.' and '_' that starts with a letter",
        ),
        (
            True,
            ["-drive", "id=,file=x"],
            "-drive id=,file=x: id must be a name of letters, digits, '-', '.' and '_' that starts with a letter, not ''",
        ),
        (
            True,
            ["-drive", "id=1a,file=x"],
            "-drive id=1a,file=x: id must be a name of letters, digits, '-', '.' and '_' that starts with a letter, not '1a'",
        ),
        (True, ["-drive", "id=a,file="], "-drive id=a,file=: file must be a path, not ''"),
        (True, ["-drive", "id=a,file=x,id=b"], "-drive id=a,file=x,id=b: id is given twice"),
        (
            True,
            ["-drive", "id=a,file=x,format=qcow2"],
            "-drive id=a,file=x,format=qcow2: format must be raw, not 'qcow2'",
        ),
        (
            True,
            ["-drive", "id=a,file=x,readonly=2"],
            "-drive id=a,file=x,readonly=2: readonly must be on or off, not '2'",
        ),
        (
            True,
            ["-drive", "id=a,file=x,direct="],
            "-drive id=a,file=x,direct=: direct must be on or off, not ''",
        ),
        (
            True,
            ["-drive", "id=a,file=x,cache=none"],
            "-drive id=a,file=x,cache=none: unknown property 'cache'; known are id, file, readonly, direct, throttling.iops-total, if or format",
        ),
        (
            True,
            ["-drive", "id=a,file=x,if=ide"],
            "-drive id=a,file=x,if=ide: if must be none or pflash, not 'ide'",
        ),
        (
            True,
            ["-drive", "id=a,file=x,throttling.iops-total=1000001"],
            "-drive id=a,file=x,throttling.iops-total=1000001: throttling.iops-total must be a number from 0 to 1000000, not '1000001'",
        ),
        (
            True,
            ["-drive", "id=a,file=x,throttling.iops-total=-1"],
            "-drive id=a,file=x,throttling.iops-total=-1: throttling.iops-total must be a number from 0 to 1000000, not '-1'",
        ),
        (
            True,
            ["-drive", "id=a,file=" + "x" * 5000],
            "-drive id=a,file="
            + "x" * 150
            + "...: file must be at most 4095 characters, not '"
            + "x" * 160
            + "...'",
        ),
        (
            True,
            ["-drive", "id=" + "a" * 129 + ",file=x"],
            "-drive id="
            + "a" * 129
            + ",file=x: id must be at most 128 characters, not '"
            + "a" * 129
            + "'",
        ),
        (
            True,
            ["-drive", "id=a,,file=x"],
            "-drive id=a,,file=x: id must be a name of letters, digits, '-', '.' and '_' that starts with a letter, not 'a,file=x'",
        ),
        (True, ["-drive", "id=a,file=x"], "-drive id=a: no -device uses it"),
        (
            True,
            ["-drive", "id=a,file=x", "-drive", "id=a,file=y"],
            "-drive id=a,file=y: another drive has the id a",
        ),
        (
            True,
            ["-drive", "file=x,if=pflash"],
            "-drive file=x,if=pflash: unit is missing; it must be a number from 0 to 1",
        ),
        (
            True,
            ["-drive", "file=x,if=pflash,unit=2"],
            "-drive file=x,if=pflash,unit=2: unit must be a number from 0 to 1, not '2'",
        ),
        (
            True,
            ["-drive", "file=x,if=pflash,unit=0", "-drive", "file=x,if=pflash,unit=0"],
            "-drive file=x,if=pflash,unit=0: another flash has the unit 0",
        ),
        (
            True,
            ["-drive", "file=x,if=pflash,unit=0"],
            "-drive if=pflash,unit=0: microvm has no flash memory",
        ),
        (
            True,
            ["-drive", "file=x,if=pflash,unit=0,direct=on"],
            "-drive file=x,if=pflash,unit=0,direct=on: unknown property 'direct'; known are file, unit, readonly, id, if or format",
        ),
    ],
    "device": [
        (True, ["-device", ""], "-device '': is empty; write key=value,key=value"),
        (
            True,
            ["-device", "e1000"],
            "-device e1000: unknown driver 'e1000'; known are pcie-root-port, vfio-pci, vhost-vsock-device, vhost-vsock-pci, virtconsole, virtio-balloon-device, virtio-balloon-pci, virtio-blk-device, virtio-blk-pci, virtio-net-device, virtio-net-pci, virtio-rng-device, virtio-rng-pci, virtio-serial-device or virtio-serial-pci",
        ),
        (
            True,
            ["-device", "driver="],
            "-device driver=: unknown driver ''; known are pcie-root-port, vfio-pci, vhost-vsock-device, vhost-vsock-pci, virtconsole, virtio-balloon-device, virtio-balloon-pci, virtio-blk-device, virtio-blk-pci, virtio-net-device, virtio-net-pci, virtio-rng-device, virtio-rng-pci, virtio-serial-device or virtio-serial-pci",
        ),
        (
            True,
            ["-device", "id=a,virtio-blk-device"],
            "-device id=a,virtio-blk-device: the driver comes first, then id=...",
        ),
        (
            True,
            ["-device", "virtio-blk-device"],
            "-device virtio-blk-device: drive is missing; it must be a name of letters, digits, '-', '.' and '_' that starts with a letter",
        ),
        (
            True,
            ["-device", "virtio-blk-device,drive="],
            "-device virtio-blk-device,drive=: drive must be a name of letters, digits, '-', '.' and '_' that starts with a letter, not ''",
        ),
        (
            True,
            ["-device", "virtio-blk-device,drive=no"],
            "-device virtio-blk-device,drive=no: no -drive has this id",
        ),
        (
            True,
            ["-device", "virtio-blk-device,drive=a,serial=" + "s" * 21],
            "-device virtio-blk-device,drive=a,serial="
            + "s" * 21
            + ": serial must be at most 20 characters, not '"
            + "s" * 21
            + "'",
        ),
        (
            True,
            ["-device", "virtio-blk-device,drive=a,num-queues=0"],
            "-device virtio-blk-device,drive=a,num-queues=0: num-queues must be a number from 1 to 32, not '0'",
        ),
        (
            True,
            ["-device", "virtio-blk-device,drive=a,num-queues=33"],
            "-device virtio-blk-device,drive=a,num-queues=33: num-queues must be a number from 1 to 32, not '33'",
        ),
        (
            True,
            ["-device", "virtio-blk-device,drive=a,bootindex=256"],
            "-device virtio-blk-device,drive=a,bootindex=256: bootindex must be a number from 0 to 255, not '256'",
        ),
        (
            True,
            ["-device", "virtio-blk-device,drive=a,bus=pcie.0"],
            "-device virtio-blk-device,drive=a,bus=pcie.0: unknown property 'bus'; known are drive, id, serial, iothread, num-queues, bootindex, queue-size, romfile, disable-modern, share-rw, write-cache, logical_block_size or physical_block_size",
        ),
        (
            True,
            ["-device", "virtio-blk-device,drive=a,drive=b"],
            "-device virtio-blk-device,drive=a,drive=b: drive is given twice",
        ),
        (
            True,
            [
                "-drive",
                "id=a,file=x",
                "-device",
                "virtio-blk-device,drive=a",
                "-device",
                "virtio-blk-device,drive=a",
            ],
            "-device virtio-blk-device,drive=a: -device virtio-blk-device,drive=a uses it already",
        ),
        (
            True,
            [
                "-drive",
                "id=a,file=x",
                "-drive",
                "id=b,file=y",
                "-device",
                "virtio-blk-device,drive=a,id=d",
                "-device",
                "virtio-blk-device,drive=b,id=d",
            ],
            "-device virtio-blk-device,id=d: another device has this id",
        ),
        (
            True,
            ["-drive", "id=a,file=x", "-device", "virtio-blk-device,drive=a,iothread=t"],
            "-device virtio-blk-device,iothread=t: no -object iothread has this id",
        ),
        (
            True,
            ["-drive", "id=a,file=x", "-device", "virtio-blk-pci,drive=a"],
            "-device virtio-blk-pci,drive=a: bus is missing; it must be a name of letters, digits, '-', '.' and '_' that starts with a letter",
        ),
        (
            True,
            [
                "-netdev",
                "tap,id=n,ifname=t",
                "-device",
                "virtio-net-pci,netdev=n,bus=pcie.0,addr=2.1",
            ],
            "-device virtio-net-pci,netdev=n,bus=pcie.0,addr=2.1: addr must have function 0 for a single function device, not 1",
        ),
        (
            True,
            ["-object", "rng-random,id=r", "-device", "virtio-rng-pci,rng=r,bus=pcie.0,addr=2.7"],
            "-device virtio-rng-pci,rng=r,bus=pcie.0,addr=2.7: addr must have function 0 for a single function device, not 7",
        ),
        (
            True,
            ["-drive", "id=a,file=x", "-device", "virtio-blk-pci,drive=a,bus=pcie.0,addr=0x20"],
            "-device virtio-blk-pci,drive=a,bus=pcie.0,addr=0x20: addr must be SLOT.FUNCTION, slot 0x0 to 0x1f and function 0x0 to 0x7, not '0x20'",
        ),
        (
            True,
            ["-drive", "id=a,file=x", "-device", "virtio-blk-pci,drive=a,bus=pcie.0,addr=0x1.0x8"],
            "-device virtio-blk-pci,drive=a,bus=pcie.0,addr=0x1.0x8: addr must be SLOT.FUNCTION, slot 0x0 to 0x1f and function 0x0 to 0x7, not '0x1.0x8'",
        ),
        (
            True,
            [
                "-drive",
                "id=a,file=x",
                "-device",
                "virtio-blk-pci,drive=a,bus=pcie.0,addr=0x1.0x0,multifunction=2",
            ],
            "-device virtio-blk-pci,drive=a,bus=pcie.0,addr=0x1.0x0,multifunction=2: multifunction must be on or off, not '2'",
        ),
        (
            True,
            ["-drive", "id=a,file=x", "-device", "virtio-blk-pci,drive=a,bus=pcie.0,addr=0x1.0x0"],
            "-device virtio-blk-pci: microvm has no PCI bus; use virtio-blk-device",
        ),
        (
            True,
            ["-device", "virtio-net-device"],
            "-device virtio-net-device: netdev is missing; it must be a name of letters, digits, '-', '.' and '_' that starts with a letter",
        ),
        (
            True,
            ["-device", "virtio-net-device,netdev=n"],
            "-device virtio-net-device,netdev=n: no -netdev has this id",
        ),
        (
            True,
            ["-device", "virtio-net-device,netdev=n,mac=1:2:3:4:5:6"],
            "-device virtio-net-device,netdev=n,mac=1:2:3:4:5:6: mac must be a unicast MAC address such as 52:54:00:12:34:56, not '1:2:3:4:5:6'",
        ),
        (
            True,
            ["-device", "virtio-net-device,netdev=n,mac=01:00:00:00:00:01"],
            "-device virtio-net-device,netdev=n,mac=01:00:00:00:00:01: mac must be a unicast MAC address such as 52:54:00:12:34:56, not '01:00:00:00:00:01'",
        ),
        (
            True,
            ["-device", "virtio-net-device,netdev=n,mac=zz:00:00:00:00:01"],
            "-device virtio-net-device,netdev=n,mac=zz:00:00:00:00:01: mac must be a unicast MAC address such as 52:54:00:12:34:56, not 'zz:00:00:00:00:01'",
        ),
        (
            True,
            ["-device", "virtio-net-device,netdev=n,mq=2"],
            "-device virtio-net-device,netdev=n,mq=2: mq must be on or off, not '2'",
        ),
        (
            True,
            [
                "-netdev",
                "tap,id=n,ifname=tap0",
                "-device",
                "virtio-net-device,netdev=n",
                "-device",
                "virtio-net-device,netdev=n",
            ],
            "-device virtio-net-device,netdev=n: -device virtio-net-device,netdev=n uses it already",
        ),
        (
            True,
            ["-device", "virtio-serial-device,id="],
            "-device virtio-serial-device,id=: id must be a name of letters, digits, '-', '.' and '_' that starts with a letter, not ''",
        ),
        (
            True,
            ["-device", "virtconsole"],
            "-device virtconsole: chardev is missing; it must be a name of letters, digits, '-', '.' and '_' that starts with a letter",
        ),
        (
            True,
            ["-device", "virtio-blk-device,drive=a,queue-size=300"],
            "-device virtio-blk-device,drive=a,queue-size=300: queue-size must be a power of two from 4 to 1024, not '300'",
        ),
        (
            True,
            ["-device", "virtio-blk-device,drive=a,queue-size=2048"],
            "-device virtio-blk-device,drive=a,queue-size=2048: queue-size must be a power of two from 4 to 1024, not '2048'",
        ),
        (
            True,
            ["-device", "virtio-blk-device,drive=a,physical_block_size=1000"],
            "-device virtio-blk-device,drive=a,physical_block_size=1000: physical_block_size must be a power of two from 512 to 32768, not '1000'",
        ),
        (
            True,
            ["-device", "virtio-blk-device,drive=a,logical_block_size=4096"],
            "-device virtio-blk-device,drive=a,logical_block_size=4096: logical_block_size must be a number from 512 to 512, not '4096'",
        ),
        (
            True,
            ["-device", "virtio-blk-device,drive=a,write-cache=off"],
            "-device virtio-blk-device,drive=a,write-cache=off: write-cache must be on or auto, not 'off'",
        ),
        (
            True,
            ["-device", "virtio-net-device,netdev=a,romfile=efi.rom"],
            "-device virtio-net-device,netdev=a,romfile=efi.rom: romfile must be empty: devices have no option ROM, not 'efi.rom'",
        ),
        (
            True,
            ["-device", "virtio-rng-pci,rng=r,vectors=4096"],
            "-device virtio-rng-pci,rng=r,vectors=4096: vectors must be a number from 0 to 2048, not '4096'",
        ),
        (
            True,
            ["-device", "virtconsole,chardev=c,nr=8"],
            "-device virtconsole,chardev=c,nr=8: nr must be a number from 0 to 7, not '8'",
        ),
        (
            True,
            ["-netdev", "tap,id=n,ifname=t,script=/etc/qemu-ifup"],
            "-netdev tap,id=n,ifname=t,script=/etc/qemu-ifup: script must be no or empty: the interface is the host's to set up, not '/etc/qemu-ifup'",
        ),
        (
            True,
            ["-netdev", "tap,id=n,ifname=t,downscript=yes"],
            "-netdev tap,id=n,ifname=t,downscript=yes: downscript must be no or empty: the interface is the host's to set up, not 'yes'",
        ),
        (
            True,
            ["-device", "virtconsole,chardev=c"],
            "-device virtconsole,chardev=c: no -chardev has this id",
        ),
        (
            True,
            ["-device", "vhost-vsock-device"],
            "-device vhost-vsock-device: guest-cid is missing; it must be a number from 3 to 4294967294",
        ),
        (
            True,
            ["-device", "vhost-vsock-device,guest-cid=2"],
            "-device vhost-vsock-device,guest-cid=2: guest-cid must be a number from 3 to 4294967294, not '2'",
        ),
        (
            True,
            ["-device", "vhost-vsock-device,guest-cid=4294967295"],
            "-device vhost-vsock-device,guest-cid=4294967295: guest-cid must be a number from 3 to 4294967294, not '4294967295'",
        ),
        (
            True,
            ["-device", "vhost-vsock-device,guest-cid=3,vhostfd="],
            "-device vhost-vsock-device,guest-cid=3,vhostfd=: vhostfd must be file descriptors joined by ':', not ''",
        ),
        (
            True,
            ["-device", "virtio-balloon-device,deflate-on-oom=1"],
            "-device virtio-balloon-device,deflate-on-oom=1: deflate-on-oom must be on or off, not '1'",
        ),
        (
            True,
            ["-device", "virtio-rng-device"],
            "-device virtio-rng-device: rng is missing; it must be a name of letters, digits, '-', '.' and '_' that starts with a letter",
        ),
        (
            True,
            ["-device", "virtio-rng-device,rng=r"],
            "-device virtio-rng-device,rng=r: no -object rng-random has this id",
        ),
        (
            True,
            ["-device", "virtio-rng-device,rng=r,max-bytes=10"],
            "-device virtio-rng-device,rng=r,max-bytes=10: max-bytes and period go together",
        ),
        (
            True,
            ["-device", "virtio-rng-device,rng=r,max-bytes=63,period=1000"],
            "-device virtio-rng-device,rng=r,max-bytes=63,period=1000: max-bytes in period is 63 bytes a second but must be at least 64 and less than 1000000000",
        ),
        (
            True,
            ["-device", "virtio-rng-device,rng=r,max-bytes=1000000000,period=1000"],
            "-device virtio-rng-device,rng=r,max-bytes=1000000000,period=1000: max-bytes in period is 1000000000 bytes a second but must be at least 64 and less than 1000000000",
        ),
        (
            True,
            ["-device", "virtio-rng-device,rng=r,max-bytes=0,period=1"],
            "-device virtio-rng-device,rng=r,max-bytes=0,period=1: max-bytes must be a number from 1 to 1000000000000, not '0'",
        ),
        (
            True,
            ["-device", "pcie-root-port,bus=pcie.0,addr=0x1"],
            "-device pcie-root-port,bus=pcie.0,addr=0x1: id is missing; it must be a name of letters, digits, '-', '.' and '_' that starts with a letter",
        ),
        (
            True,
            ["-device", "pcie-root-port,id=p,port=256,bus=pcie.0,addr=0x1"],
            "-device pcie-root-port,id=p,port=256,bus=pcie.0,addr=0x1: port must be a number from 0 to 255, not '256'",
        ),
        (
            True,
            ["-device", "pcie-root-port,id=p,port=0x1,bus=pcie.0,addr=0x1"],
            "-device pcie-root-port,id=p: microvm has no PCI bus",
        ),
        (
            True,
            ["-device", "vfio-pci,host=1a:00,bus=pcie.0,addr=1"],
            "-device vfio-pci,host=1a:00,bus=pcie.0,addr=1: host must be DOMAIN:BUS:SLOT.FUNCTION in hexadecimal, such as 0000:1a:00.3, not '1a:00'",
        ),
        (
            True,
            ["-device", "vfio-pci,host=0000:1a:20.3,bus=pcie.0,addr=1"],
            "-device vfio-pci,host=0000:1a:20.3,bus=pcie.0,addr=1: host must be DOMAIN:BUS:SLOT.FUNCTION in hexadecimal, such as 0000:1a:00.3, not '0000:1a:20.3'",
        ),
        (
            True,
            ["-device", "vfio-pci,host=0000:1a:00.3,bus=pcie.0,addr=0x3"],
            "-device vfio-pci: microvm has no PCI bus",
        ),
    ],
    "netdev": [
        (True, ["-netdev", ""], "-netdev '': is empty; write key=value,key=value"),
        (
            True,
            ["-netdev", "user,id=n"],
            "-netdev user,id=n: unknown back end 'user'; known are tap or vhost-user",
        ),
        (True, ["-netdev", "tap,id=n"], "-netdev tap,id=n: ifname, fd or fds is missing"),
        (
            True,
            ["-netdev", "tap,ifname=t"],
            "-netdev tap,ifname=t: id is missing; it must be a name of letters, digits, '-', '.' and '_' that starts with a letter",
        ),
        (
            True,
            ["-netdev", "tap,id=n,ifname="],
            "-netdev tap,id=n,ifname=: ifname must be the name of an interface, not ''",
        ),
        (
            True,
            ["-netdev", "tap,id=n,ifname=tttttttttttttttt"],
            "-netdev tap,id=n,ifname=tttttttttttttttt: ifname must be at most 15 characters, not 'tttttttttttttttt'",
        ),
        (
            True,
            ["-netdev", "tap,id=n,fd=3,fds=3:4"],
            "-netdev tap,id=n,fd=3,fds=3:4: fd and fds contradict each other; give one",
        ),
        (
            True,
            ["-netdev", "tap,id=n,fd=3:4"],
            "-netdev tap,id=n,fd=3:4: fd is one descriptor; give several with fds",
        ),
        (
            True,
            ["-netdev", "tap,id=n,fds=3:3"],
            "-netdev tap,id=n,fds=3:3: fds must be file descriptors that are named once each, not '3:3'",
        ),
        (
            True,
            ["-netdev", "tap,id=n,fds=3:"],
            "-netdev tap,id=n,fds=3:: fds must be file descriptors joined by ':', not '3:'",
        ),
        (
            True,
            ["-netdev", "tap,id=n,ifname=t,queues=0"],
            "-netdev tap,id=n,ifname=t,queues=0: queues must be a number from 1 to 16, not '0'",
        ),
        (
            True,
            ["-netdev", "tap,id=n,ifname=t,queues=17"],
            "-netdev tap,id=n,ifname=t,queues=17: queues must be a number from 1 to 16, not '17'",
        ),
        (
            True,
            ["-netdev", "tap,id=n,ifname=t,vhostfd=3"],
            "-netdev tap,id=n,ifname=t,vhostfd=3: vhostfd and vhostfds need vhost=on",
        ),
        (
            True,
            ["-netdev", "tap,id=n,ifname=t,vhost=on,vhostfd=3,vhostfds=4"],
            "-netdev tap,id=n,ifname=t,vhost=on,vhostfd=3,vhostfds=4: vhostfd and vhostfds contradict each other; give one",
        ),
        (
            True,
            ["-netdev", "tap,id=n,ifname=t", "-netdev", "tap,id=n,ifname=u"],
            "-netdev tap,id=n,ifname=u: another netdev has the id n",
        ),
        (
            True,
            ["-netdev", "vhost-user,id=n"],
            "-netdev vhost-user,id=n: chardev is missing; it must be a name of letters, digits, '-', '.' and '_' that starts with a letter",
        ),
        (
            True,
            ["-netdev", "vhost-user,id=n,chardev=c"],
            "-netdev vhost-user,chardev=c: no -chardev has this id",
        ),
        (True, ["-netdev", "tap,id=n,ifname=t"], "-netdev tap,id=n: no -device uses it"),
    ],
    "chardev": [
        (True, ["-chardev", ""], "-chardev '': is empty; write key=value,key=value"),
        (
            True,
            ["-chardev", "usb,id=c"],
            "-chardev usb,id=c: unknown backend 'usb'; known are stdio, pty, socket or file",
        ),
        (
            True,
            ["-chardev", "stdio"],
            "-chardev stdio: id is missing; it must be a name of letters, digits, '-', '.' and '_' that starts with a letter",
        ),
        (
            True,
            ["-chardev", "stdio,id="],
            "-chardev stdio,id=: id must be a name of letters, digits, '-', '.' and '_' that starts with a letter, not ''",
        ),
        (True, ["-chardev", "stdio,id=c"], "-chardev stdio,id=c: no device uses it"),
        (
            True,
            ["-chardev", "stdio,id=c,path=x"],
            "-chardev stdio,id=c,path=x: unknown property 'path'; known are id",
        ),
        (
            True,
            ["-chardev", "pty,id=c", "-chardev", "pty,id=c"],
            "-chardev pty,id=c: another chardev has the id c",
        ),
        (True, ["-chardev", "file,id=c"], "-chardev file,id=c: path is missing; it must be a path"),
        (
            True,
            ["-chardev", "file,id=c,path="],
            "-chardev file,id=c,path=: path must be a path, not ''",
        ),
        (
            True,
            ["-chardev", "socket,id=c"],
            "-chardev socket,id=c: give path (UNIX), or host and port (TCP)",
        ),
        (
            True,
            ["-chardev", "socket,id=c,path=x,host=h,port=1"],
            "-chardev socket,id=c,path=x,host=h,port=1: give path (UNIX), or host and port (TCP)",
        ),
        (True, ["-chardev", "socket,id=c,host=h"], "-chardev socket,id=c,host=h: port is missing"),
        (
            True,
            ["-chardev", "socket,id=c,port=65536"],
            "-chardev socket,id=c,port=65536: port must be a number from 0 to 65535, not '65536'",
        ),
        (
            True,
            ["-chardev", "socket,id=c,port=0"],
            "-chardev socket,id=c,port=0: port 0 needs server",
        ),
        (
            True,
            ["-chardev", "socket,id=c,path=" + "p" * 108],
            "-chardev socket,id=c,path="
            + "p" * 108
            + ": path must be at most 107 characters, not '"
            + "p" * 108
            + "'",
        ),
        (
            True,
            ["-chardev", "socket,id=c,path=p,nowait"],
            "-chardev socket,id=c,path=p,nowait: wait and nowait need server",
        ),
        (
            True,
            ["-chardev", "socket,id=c,path=p,server=maybe"],
            "-chardev socket,id=c,path=p,server=maybe: server must be on or off, not 'maybe'",
        ),
        (
            True,
            ["-chardev", "socket,id=c,path=p,server,wait=on,nowait"],
            "-chardev socket,id=c,path=p,server,wait=on,nowait: wait and nowait contradict each other; give one",
        ),
        (
            True,
            ["-chardev", "socket,id=c,path=p,server,reconnect=1"],
            "-chardev socket,id=c,path=p,server,reconnect=1: reconnect is for a client; server waits for the next one anyway",
        ),
        (
            True,
            ["-chardev", "socket,id=c,path=p,reconnect=3601"],
            "-chardev socket,id=c,path=p,reconnect=3601: reconnect must be a number from 0 to 3600, not '3601'",
        ),
        (
            True,
            ["-chardev", "socket,id=c,path=p,telnet=on"],
            "-chardev socket,id=c,path=p,telnet=on: unknown property 'telnet'; known are server, nowait, wait, id, path, host, port or reconnect",
        ),
        (True, ["-serial", ""], "-serial '': is empty; write key=value,key=value"),
        (
            True,
            ["-serial", "usb"],
            "-serial usb: unknown backend 'usb'; known are stdio, pty, socket or file",
        ),
        (
            True,
            ["-serial", "chardev:"],
            "-serial chardev:: must be a name of letters, digits, '-', '.' and '_' that starts with a letter",
        ),
        (True, ["-serial", "chardev:nobody"], "-serial chardev:nobody: no -chardev has this id"),
        (
            True,
            ["-serial", "chardev:1"],
            "-serial chardev:1: must be a name of letters, digits, '-', '.' and '_' that starts with a letter",
        ),
        (True, ["-serial", "stdio", "-serial", "stdio"], "-serial stdio: given twice"),
        (True, ["-serial", "socket"], "-serial socket: give path (UNIX), or host and port (TCP)"),
        (True, ["-serial", "file"], "-serial file: path is missing; it must be a path"),
        (True, ["-serial", "stdio,id=x"], "-serial stdio,id=x: id is given twice"),
        (
            True,
            ["-chardev", "stdio,id=c", "-serial", "chardev:c", "-mon", "chardev=c"],
            "-mon chardev=c: -serial chardev:c uses it already",
        ),
        (
            True,
            ["-serial", "stdio", "-chardev", "stdio,id=c", "-mon", "chardev=c"],
            "-chardev stdio,id=serial0: c has the standard streams",
        ),
    ],
    "monitor": [
        (True, ["-qmp", ""], "-qmp '': must start with unix:PATH or tcp:HOST:PORT"),
        (True, ["-qmp", "/tmp/q"], "-qmp /tmp/q: must start with unix:PATH or tcp:HOST:PORT"),
        (True, ["-qmp", "unix:"], "-qmp unix:: the address is missing"),
        (True, ["-qmp", "unix:/tmp/q"], "-qmp unix:/tmp/q: the monitor listens; add 'server'"),
        (
            True,
            ["-qmp", "unix:/tmp/q,nowait"],
            "-qmp unix:/tmp/q,nowait: wait and nowait need server",
        ),
        (
            True,
            ["-qmp", "unix:/tmp/q,server,wait=on,nowait"],
            "-qmp unix:/tmp/q,server,wait=on,nowait: wait and nowait contradict each other; give one",
        ),
        (
            True,
            ["-qmp", "unix:/" + "x" * 107 + ",server"],
            "-qmp unix:/"
            + "x" * 107
            + ",server: path must be at most 107 characters, not '/"
            + "x" * 107
            + "'",
        ),
        (True, ["-qmp", "tcp:1,server"], "-qmp tcp:1,server: must be tcp:HOST:PORT"),
        (
            True,
            ["-qmp", "tcp:h:x,server"],
            "-qmp tcp:h:x,server: port must be a number from 0 to 65535, not 'x'",
        ),
        (
            True,
            ["-qmp", "tcp:h:65536,server"],
            "-qmp tcp:h:65536,server: port must be a number from 0 to 65535, not '65536'",
        ),
        (True, ["-qmp", "tcp:h:1"], "-qmp tcp:h:1: the monitor listens; add 'server'"),
        (
            True,
            ["-qmp", "unix:/q,server,color=1"],
            "-qmp unix:/q,server,color=1: unknown property 'color'; known are server, nowait or wait",
        ),
        (
            True,
            ["-qmp", "unix:/q,server,id=x"],
            "-qmp unix:/q,server,id=x: unknown property 'id'; known are server, nowait or wait",
        ),
        (
            True,
            ["-qmp", "unix:/q,server", "-qmp", "unix:/q,server"],
            "-qmp unix:/q,server: given twice",
        ),
        (True, ["-mon", ""], "-mon '': is empty; write key=value,key=value"),
        (True, ["-mon", "chardev=nobody"], "-mon chardev=nobody: no -chardev has this id"),
        (
            True,
            ["-mon", "mode=control"],
            "-mon mode=control: chardev is missing; it must be a name of letters, digits, '-', '.' and '_' that starts with a letter",
        ),
        (
            True,
            ["-chardev", "pty,id=c", "-mon", "chardev=c,mode=readline"],
            "-mon chardev=c,mode=readline: mode must be control, not 'readline'",
        ),
        (
            True,
            ["-chardev", "pty,id=c", "-mon", "chardev=c", "-mon", "chardev=c"],
            "-mon chardev=c: -mon chardev=c uses it already",
        ),
        (
            True,
            ["-chardev", "pty,id=c", "-mon", "chardev=c,pretty=2"],
            "-mon chardev=c,pretty=2: pretty must be on or off, not '2'",
        ),
    ],
    "process": [
        (True, ["-name", ""], "-name '': is empty; write key=value,key=value"),
        (True, ["-name", "guest="], "-name guest=: guest must be a text that is not empty, not ''"),
        (
            True,
            ["-name", "n" * 256],
            "-name "
            + "n" * 160
            + "...: guest must be at most 255 characters, not '"
            + "n" * 160
            + "...'",
        ),
        (
            True,
            ["-name", "n,process=pppppppppppppppp"],
            "-name n,process=pppppppppppppppp: process must be at most 15 characters, not 'pppppppppppppppp'",
        ),
        (
            True,
            ["-name", "n,color=1"],
            "-name n,color=1: unknown property 'color'; known are guest, process or debug-threads",
        ),
        (True, ["-name", "n", "-name", "n"], "-name n: given twice"),
        (
            True,
            ["-name", "n,debug-threads=2"],
            "-name n,debug-threads=2: debug-threads must be on or off, not '2'",
        ),
        (True, ["-pidfile", ""], "-pidfile '': path must be a path, not ''"),
        (True, ["-pidfile", "a", "-pidfile", "b"], "-pidfile b: given twice"),
        (True, ["-D", ""], "-D '': path must be a path, not ''"),
        (True, ["-D", "a", "-D", "b"], "-D b: given twice"),
        (True, ["-trace", ""], "-trace '': is empty; write key=value,key=value"),
        (True, ["-trace", "events="], "-trace events=: events must be a path, not ''"),
        (
            True,
            ["-trace", "enable=x"],
            "-trace enable=x: unknown property 'enable'; known are events",
        ),
        (
            True,
            ["-daemonize", "-serial", "stdio"],
            "-daemonize: a daemon has no streams for -chardev stdio,id=serial0",
        ),
        (True, ["-daemonize", "-D"], "-daemonize: a daemon has no stderr for -D; give -D PATH"),
        (True, ["-daemonize", "-daemonize"], "-daemonize: given twice"),
        (True, ["-S", "-S"], "-S: given twice"),
        (True, ["-mod-test", "/tmp/s"], "-mod-test /tmp/s: needs -accel test"),
        (True, ["-mod-test", ""], "-mod-test '': must be a path"),
        (
            True,
            ["-accel", "test", "-mod-test", "/" + "s" * 108],
            "-mod-test /" + "s" * 108 + ": must be at most 107 characters",
        ),
        (True, ["-fast"], "-fast: unknown option; see stratovirt -help"),
        (True, ["--"], "--: unknown option; see stratovirt -help"),
        (True, ["-"], "-: unknown option; see stratovirt -help"),
        (True, ["word"], "word: unknown option; see stratovirt -help"),
        (True, [""], "'': unknown option; see stratovirt -help"),
        (True, ["-uuid"], "-uuid: needs a value"),
        (True, ["-boot"], "-boot: needs a value"),
        (True, ["-disable-seccomp", "-disable-seccomp"], "-disable-seccomp: given twice"),
        (
            True,
            ["-chardev", "stdio,id=c", "-mon", "c", "-daemonize"],
            "-daemonize: a daemon has no streams for -chardev stdio,id=c",
        ),
    ],
    "single": [
        (
            True,
            [
                "-device",
                "vhost-vsock-device,guest-cid=3",
                "-device",
                "vhost-vsock-device,guest-cid=4",
            ],
            "-device vhost-vsock-device: a machine has one socket device",
        ),
        (
            True,
            ["-device", "virtio-balloon-device", "-device", "virtio-balloon-device"],
            "-device virtio-balloon-device: a machine has one balloon device",
        ),
    ],
    "none": [
        (True, ["-machine", "none"], "-kernel: -machine none has no guest that could use it"),
        (
            False,
            ["-machine", "none", "-device", "virtio-balloon-device"],
            "-device: -machine none has no guest that could use it",
        ),
        (
            False,
            ["-machine", "none", "-serial", "stdio"],
            "-serial: -machine none has no guest that could use it",
        ),
        (
            False,
            ["-machine", "none", "-append", "x"],
            "-append: -machine none has no guest that could use it",
        ),
        (
            False,
            ["-machine", "none", "-accel", "test", "-mod-test", "/s"],
            "-mod-test: -machine none has no guest that could use it",
        ),
        (
            False,
            ["-machine", "none", "-netdev", "tap,id=n,ifname=t"],
            "-netdev tap,id=n: no -device uses it",
        ),
    ],
}
