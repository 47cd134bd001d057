# pgfiles: re-enter the directory after `pgfiles mount .` and `pgfiles unmount .`   (in ~/.bashrc: eval "$(pgfiles shell-hook bash)")
function pgfiles {
    local pgfiles_word pgfiles_moves=
    for pgfiles_word in "$@"; do
        case $pgfiles_word in
            mount | unmount) pgfiles_moves=1 ;;
        esac
    done
    if [ -z "$pgfiles_moves" ]; then
        command pgfiles "$@"
        return
    fi
    PGFILES_SHELL_HOOK=bash command pgfiles "$@" || return
    if ! [ . -ef "$PWD" ]; then
        local OLDPWD=$OLDPWD
        builtin cd -- "$PWD" || printf 'pgfiles: %s is not there any more: cd to where you want to be\n' "$PWD" >&2
    fi
    return 0
}
