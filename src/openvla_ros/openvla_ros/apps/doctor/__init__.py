"""`openvla-doctor`: checks of the machine, the configuration and a running stack.

`stack_probe`, `machine` and `policy_probe` collect facts, `*_checks` turn them into findings, `examination` calls both,
`cli` prints. May import every folder of the package except evaluation and console.
"""
