# pgfiles: re-enter the directory after `pgfiles mount .` and `pgfiles unmount .`   (in config.fish: pgfiles shell-hook fish | source)
function pgfiles --description 'A filesystem in one Postgres table'
    if not contains -- mount $argv; and not contains -- unmount $argv
        command pgfiles $argv
        return
    end
    PGFILES_SHELL_HOOK=fish command pgfiles $argv
    or return
    if not test . -ef $PWD
        builtin cd -- $PWD
        or echo "pgfiles: $PWD is not there any more: cd to where you want to be" >&2
    end
    return 0
end
